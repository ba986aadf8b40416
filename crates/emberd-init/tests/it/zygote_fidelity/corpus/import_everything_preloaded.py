import argparse, base64, collections, contextlib, copy, csv, dataclasses, datetime, decimal
import enum, functools, hashlib, heapq, inspect, io, itertools, json, math, operator, os
import pathlib, pickle, random, re, shutil, statistics, string, struct, subprocess, tempfile
import textwrap, threading, time, traceback, typing, unicodedata, urllib.parse, uuid, zlib
print(hashlib.sha256(b"x").hexdigest(), json.dumps({"a": [1, None]}), math.pi)
print(re.findall(r"\d+", "a1b22"), pathlib.PurePath("a") / "b", statistics.mean([1, 2, 4]))
print(datetime.date(2024, 2, 29).isoformat(), decimal.Decimal("0.1") * 3)
