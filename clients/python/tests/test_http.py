"""HTTP/1.1 and server-sent events without I/O: whatever the pieces, the same result."""

from __future__ import annotations

import unittest

from emberd import _http
from emberd._address import Address
from emberd.errors import EmberdError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


def read(stream: bytes, piece_bytes: int, method: str = "GET") -> tuple[int, bytes, bool]:
    response, body, ended = _http.Response(method), b"", False
    for at in range(0, len(stream), piece_bytes):
        response.feed(stream[at : at + piece_bytes])
        body += response.body()
    ended = response.end()
    return response.status, body, ended


class Responses(unittest.TestCase):
    def check(self, stream: bytes, expect: tuple[int, bytes, bool], method: str = "GET") -> None:
        for piece_bytes in range(1, len(stream) + 1):
            self.assertEqual(read(stream, piece_bytes, method), expect, (piece_bytes, stream))

    def test_pieces_never_change_the_answer(self) -> None:
        self.check(HEAD + b"Content-Length: 5\r\n\r\nhello", (200, b"hello", True))
        chunks = b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n"
        self.check(HEAD + chunks, (200, b"hello", True))
        self.check(HEAD + b"\r\nhello", (200, b"hello", True))
        self.check(
            b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", (200, b"", True)
        )
        self.check(b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True))
        self.check(HEAD + b"Content-Length: 5\r\n\r\n", (200, b"", True), "HEAD")

    def test_an_answer_that_is_cut_is_not_complete(self) -> None:
        self.check(HEAD + b"Content-Length: 5\r\n\r\nhell", (200, b"hell", False))
        self.check(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", (200, b"hello", False)
        )
        self.check(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", (200, b"hello", False)
        )
        self.check(HEAD, (0, b"", False))

    def test_what_is_not_http_is_refused(self) -> None:
        for stream in [
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            HEAD + b"Content-Length: 1x\r\n\r\n",
            HEAD + b"Content-Length: -1\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 9000,
            b"x" * (_http.HEAD_BYTES_MAX + 1),
        ]:
            for piece_bytes in (1, 7, len(stream)):
                with self.assertRaises(_http.Malformed, msg=stream[:60]):
                    read(stream, piece_bytes)

    def test_a_connection_is_used_again_after_a_whole_answer_only(self) -> None:
        def keeps(stream: bytes) -> bool:
            response = _http.Response("GET")
            response.feed(stream)
            response.body()
            return response.keeps_alive

        self.assertTrue(keeps(HEAD + b"Content-Length: 2\r\n\r\nok"))
        self.assertFalse(keeps(HEAD + b"Content-Length: 3\r\n\r\nok"))
        self.assertFalse(keeps(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nok"))
        self.assertFalse(keeps(HEAD + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200"))
        self.assertFalse(keeps(HEAD + b"\r\nok"))


class Requests(unittest.TestCase):
    def test_a_value_cannot_make_a_field(self) -> None:
        for value in ("a\r\nx: y", "a\nb", "a\0b"):
            with self.assertRaises(EmberdError):
                _http.head("GET", "/", [("x", value)])
        with self.assertRaisesRegex(EmberdError, "Latin-1"):
            _http.head("GET", "/", [("x", "✓")])

    def test_an_id_cannot_make_a_path(self) -> None:
        self.assertEqual(_http.segment("../a b/c?d"), "..%2Fa%20b%2Fc%3Fd")
        for word in ("", ".", ".."):
            with self.assertRaises(EmberdError):
                _http.segment(word)

    def test_queries_are_bytes(self) -> None:
        query = [("path", b"/a b\xff+"), ("n", 3), ("yes", True), ("none", None)]
        self.assertEqual(_http.target("/x", query), "/x?path=%2Fa%20b%FF%2B&n=3&yes=true")


class ServerEvents(unittest.TestCase):
    def check(self, stream: bytes, expect: list[tuple[str, str]]) -> None:
        for piece_bytes in range(1, len(stream) + 1):
            events, seen = _http.ServerEvents(1000), []
            for at in range(0, len(stream), piece_bytes):
                seen += events.feed(stream[at : at + piece_bytes])
            self.assertEqual(seen, expect)

    def test_pieces_never_change_the_events(self) -> None:
        self.check(b"event: a\ndata: {}\n\n", [("a", "{}")])
        self.check(b"data: a\n\ndata:b\r\n\r\n", [("", "a"), ("", "b")])
        self.check(b"id: 0\ndata: a\ndata:  b\ndata\n\n", [("", "a\n b\n")])
        self.check(b":\n\n: alive\n\nevent: x\n\ndata: \xc3\xa9\n\n", [("", "é")])
        self.check(b"data: a\n\ndata: b\n", [("", "a")])

    def test_long_events_and_other_bytes_are_refused(self) -> None:
        for stream in (
            b"data: 123456789\n\n",
            b"data: 1234\ndata: 56789\n",
            b"x" * 20,
            b"data: \xff\n\n",
        ):
            events = _http.ServerEvents(15 if b"\xff" in stream else 8)
            with self.assertRaises(_http.Malformed):
                events.feed(stream)


class Addresses(unittest.TestCase):
    def test_every_form(self) -> None:
        for text, shown, host in [
            ("127.0.0.1:7777", "http://127.0.0.1:7777", "127.0.0.1:7777"),
            ("http://localhost:7777/", "http://localhost:7777", "localhost:7777"),
            ("https://vm.example", "https://vm.example", "vm.example"),
            ("[::1]:7777", "http://[::1]:7777", "[::1]:7777"),
            ("unix:/run/a b.sock", "unix:/run/a b.sock", "emberd"),
        ]:
            address = Address(text)
            self.assertEqual((str(address), address.authority), (shown, host))

    def test_what_is_no_address_says_what_is(self) -> None:
        for text in (
            "nowhere",
            "http://",
            "ftp://a",
            "a:b",
            "http://a/path",
            "unix:",
            "a b:1",
            "a\n:1",
            "http://u@a",
            "127.0.0.1:99999",
        ):
            with self.assertRaisesRegex(EmberdError, "hint: use HOST:PORT", msg=text):
                Address(text)
