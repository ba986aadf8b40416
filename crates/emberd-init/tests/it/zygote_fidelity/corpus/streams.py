import os, stat, sys
for stream in sys.stdin, sys.stdout, sys.stderr:
    print(stream.isatty(), stream.fileno(), stream.line_buffering, stream.write_through,
          stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode), stream.seekable(),
          type(stream.buffer).__name__, stream.buffer.raw.name, stream.closed)
