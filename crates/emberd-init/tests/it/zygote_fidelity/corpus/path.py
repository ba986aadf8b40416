import sys, os
print(sys.path)
print(sys.path[0] == os.path.dirname(__file__), sys.executable, sys.prefix)
print(sorted(path for path in sys.path_importer_cache if path.startswith(sys.path[0])))
