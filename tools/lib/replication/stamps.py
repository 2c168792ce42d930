"""Stamps: the time of a write is its value, so whoever reads it knows how late it is. And a prober
that times single writes.

The stamp is taken just before the SET is sent to the primary; gets at the replica follow one
another until its value comes back. What lies between counts both requests' ways as well: the same
at the primary itself tells how much that is. Both servers are asked in the same way, Remora in
memcached's text protocol, Valkey in RESP.
"""

import contextlib
import os
import threading
import time

from lib.replication.family import connect

KEY = b"stamp"
STAMP_BYTES = 20
SEEN_SECONDS_MAX = 5.0
# A replica at the lowest priority may not run for seconds: then each of many stamps takes long.
STAMPING_SECONDS_MAX = 20.0
PROBE_EVERY_SECONDS = 0.002
PROBE_PRIORITY = -10


def set_request(is_remora, key, value):
    if is_remora:
        return b"set %b 0 0 %d\r\n%b\r\n" % (key, len(value), value)
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)


def get_request(is_remora, key):
    return b"get %b\r\n" % key if is_remora else b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key)


def set_answer(is_remora):
    return b"STORED\r\n" if is_remora else b"+OK\r\n"


def stamp_of(is_remora, answer):
    """The stamp in a whole answer to a get; None where there is none in it yet."""
    lines = answer.split(b"\r\n")
    if is_remora:
        return int(lines[1]) if lines[0].startswith(b"VALUE ") else None
    return int(lines[1]) if lines[0] == b"$%d" % STAMP_BYTES else None


def is_whole(is_remora, answer):
    if is_remora:
        return answer.endswith(b"END\r\n")
    return answer == b"$-1\r\n" or (answer.startswith(b"$%d\r\n" % STAMP_BYTES) and len(answer) == STAMP_BYTES + 7)


def exchange(connection, request, is_end):
    """Send, and read up to the answer's end."""
    connection.sendall(request)
    answer = b""
    while not is_end(answer):
        piece = connection.recv(1 << 12)
        answer += piece
        if not piece or is_error(answer):
            raise ConnectionError(f"the server hung up or refused: {answer!r}")
    return answer


def is_error(answer):
    return answer.startswith((b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR", b"-")) and answer.endswith(b"\r\n")


def stamps(family, writer, reader, count, every_seconds):
    """Microseconds until each of so many stamps, written to one server, is read from the other; how
    many were not within the bound. No further stamp is sent after STAMPING_SECONDS_MAX."""
    is_remora = family.is_remora
    get = get_request(is_remora, KEY)
    whole = lambda answer: is_whole(is_remora, answer)
    late_us, missing, until = [], 0, time.monotonic() + STAMPING_SECONDS_MAX
    with contextlib.closing(connect(writer)) as to, contextlib.closing(connect(reader)) as back:
        for number in range(count + 1):
            if time.monotonic() >= until:
                break
            time.sleep(every_seconds)
            sent = time.monotonic_ns()
            to.sendall(set_request(is_remora, KEY, b"%0*d" % (STAMP_BYTES, sent)))
            seen = None
            while seen is None and time.monotonic_ns() - sent < SEEN_SECONDS_MAX * 1e9:
                if stamp_of(is_remora, exchange(back, get, whole)) == sent:
                    seen = time.monotonic_ns()
            exchange(to, b"", lambda answer: answer == set_answer(is_remora))
            # The first one finds the key absent, and both ends not awake yet.
            if number and seen is None:
                missing += 1
            elif number:
                late_us.append((seen - sent) / 1e3)
    return late_us, missing


class Prober:
    """A thread that sets one key every two milliseconds and remembers how long each took: latency
    over time, from outside the load.

    It goes before others on the generator's core, so that it tells of the server, not of that core.
    """

    def __init__(self, family, server):
        self.family, self.server = family, server
        self.points = []  # seconds since the start, milliseconds
        self.begin = time.monotonic()
        self.trouble = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def now(self):
        return time.monotonic() - self.begin

    def _run(self):
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PROBE_PRIORITY)
        request = set_request(self.family.is_remora, b"probe", b"v" * 100)
        answer = set_answer(self.family.is_remora)
        try:
            with contextlib.closing(connect(self.server)) as connection:
                while not self._stop.wait(PROBE_EVERY_SECONDS):
                    sent = time.monotonic()
                    exchange(connection, request, lambda said: said == answer)
                    self.points.append((sent - self.begin, (time.monotonic() - sent) * 1e3))
        except OSError as error:
            self.trouble = str(error)


def worst_of_slots(points, slot_seconds):
    """The worst of each stretch of time: few enough points for a plot, and no stall is lost."""
    worst = {}
    for seconds, milliseconds in points:
        slot = int(seconds / slot_seconds)
        worst[slot] = max(worst.get(slot, 0.0), milliseconds)
    return [((slot + 0.5) * slot_seconds, value) for slot, value in sorted(worst.items())]
