import builtins, site
print([name for name in dir(builtins) if not name.startswith("_")])
print(exit, site.ENABLE_USER_SITE, site.PREFIXES)
exit(4)
