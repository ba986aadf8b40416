import locale, sys, codecs
print(locale.getlocale(), locale.getpreferredencoding(), locale.setlocale(locale.LC_ALL))
for stream in sys.stdin, sys.stdout, sys.stderr:
    print(stream.encoding, stream.errors, stream.mode, stream.name, stream.newlines)
