"""A small TCP proxy that breaks connections on demand: reset, half-close, silence, and the lost answer of a commit."""

import socket
import struct
import threading

CHUNK = 65_536
CONNECT_SECONDS_MAX = 5
# How a commit can be told from other traffic: the statement's text is seen when it is prepared, and each later message
# of such a connection is one of its commits.
LANE = b"WITH fence AS"


class Pair:
    """One connection through the proxy. Its two sockets are closed once, when neither thread uses them any more: a number
    that is free is at once another connection's."""

    def __init__(self, proxy, client, server):
        self.proxy, self.client, self.server = proxy, client, server
        self.is_lane = False
        self.loses_answer = False
        self.silent = False
        self.lock = threading.Lock()
        self.pumps = 2

    def start(self):
        for source, sink, upwards in ((self.client, self.server, True), (self.server, self.client, False)):
            threading.Thread(target=self.run, args=(source, sink, upwards), daemon=True).start()

    def run(self, source, sink, upwards):
        try:
            self.pump(source, sink, upwards)
        except OSError:
            self.cut()
        with self.lock:
            self.pumps -= 1
            if self.pumps == 0:
                self.client.close()
                self.server.close()
                self.proxy.forget(self)

    def pump(self, source, sink, upwards):
        while data := source.recv(CHUNK):
            if self.silent:
                continue
            if upwards:
                prepared = LANE in data
                if self.proxy.armed and (self.is_lane or prepared):
                    # The server gets it, the client never hears what became of it.
                    self.proxy.armed -= 1
                    self.loses_answer = True
                self.is_lane = self.is_lane or prepared
            elif self.loses_answer:
                self.proxy.lost += 1
                self.reset()
                return
            sink.sendall(data)
        # One side has said all it has to say; the other may still answer.
        sink.shutdown(socket.SHUT_WR)

    def on_open(self, do):
        """Does something to each of the sockets, unless they are closed already."""
        with self.lock:
            if self.pumps == 0:
                return
            for end in (self.client, self.server):
                try:
                    do(end)
                except OSError:
                    pass

    def cut(self):
        self.on_open(lambda end: end.shutdown(socket.SHUT_RDWR))

    def reset(self):
        self.on_open(lambda end: end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))
        self.cut()

    def half_close(self):
        """The client may still write, and nobody answers."""
        self.on_open(lambda end: end is self.client and end.shutdown(socket.SHUT_WR))


class Proxy:
    """Listens on a port of its own and passes on to `target`, which may change."""

    def __init__(self, target):
        self.target = target
        self.lock = threading.Lock()
        self.pairs = set()
        # How many answers to commits are still to be lost, and how many were.
        self.armed = 0
        self.lost = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=CONNECT_SECONDS_MAX)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = Pair(self, client, server)
            with self.lock:
                self.pairs.add(pair)
            pair.start()

    def each(self, do):
        with self.lock:
            pairs = list(self.pairs)
        for pair in pairs:
            do(pair)
        return len(pairs)

    def reset_all(self):
        return self.each(Pair.reset)

    def half_close_all(self):
        return self.each(Pair.half_close)

    def silence_all(self):
        """Connections stay open, and nothing comes through any more."""
        return self.each(lambda pair: setattr(pair, "silent", True))

    def lose_answers(self, count):
        self.armed = count

    def forget(self, pair):
        with self.lock:
            self.pairs.discard(pair)

    def close(self):
        self.listener.close()
        self.reset_all()
