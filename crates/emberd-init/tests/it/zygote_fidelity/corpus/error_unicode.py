raise ValueError("ünïcödé \ud800 ☃")
