try:
    import sqlite3
    connection = sqlite3.connect(":memory:")
    print(connection.execute("select 1 + 1").fetchall())
except ImportError:
    print("this interpreter has none")
