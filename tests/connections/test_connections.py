"""Connections to real servers: batches, timeouts, faults, forks, loops, Sentinel and Cluster."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import statistics
import sys
import threading
import time
import warnings

import pytest
import redis
import redis.asyncio
from redis.exceptions import ResponseError

from servers import RedisServer, TcpProxy, needs, wait_until
from tiercast.config.settings import DistributedCacheConfig
from tiercast.connections import RedisConnections, Script, Unavailable
from tiercast.connections.link import Link
from tiercast.connections.listener import SocketListener
from tiercast.plans import drive, drive_async

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
READ_TIMEOUT = 0.25
BUSY = 2.0
"""Seconds by which a busy machine may be late. One after the other, thousands of calls would take longer."""


@pytest.fixture
def connect():
    made = []

    def make(url=None, clock=None, **options):
        made.append(RedisConnections(DistributedCacheConfig(connection_string=url, **options), clock))
        return made[-1]

    yield make
    for connections in made:
        connections.close()


@pytest.fixture
def blackhole():
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


async def get(connections, key):
    return (await connections.commands(("GET", key)).run_async())[0]


def timed(function):
    begun = time.perf_counter()
    try:
        function()
    except Unavailable:
        pass
    return time.perf_counter() - begun


# -- asking --------------------------------------------------------------------------------------


def test_replies_come_in_order_and_errors_are_values(connect, redis_url):
    """A pipeline with a failing command answers the others."""
    connections = connect(redis_url)
    replies = connections.execute([("SET", "a", b"1"), ("GET", "a"), ("LPUSH", "a", "x"), ("GET", "b"), ("GET", "a")])
    assert [b"OK", b"1", None, b"1"] == [*replies[:2], *replies[3:]]
    assert (ResponseError, "WRONGTYPE") == (type(replies[2]), str(replies[2]).split()[0])


async def test_the_same_for_a_task(connect, redis_url):
    """The asynchronous twin answers alike."""
    connections = connect(redis_url)
    replies = await connections.execute_async([("SET", "a", b"1"), ("GET", "a"), ("LPUSH", "a", "x"), ("GET", "b")])
    assert [b"OK", b"1", None] == [*replies[:2], replies[3]]
    assert "WRONGTYPE" == str(replies[2]).split()[0]


async def test_an_unknown_script_is_sent_whole_within_the_request(connect, redis_url):
    """After SCRIPT FLUSH a call by digest still answers, once, for threads and tasks."""
    connections = connect(redis_url)
    assert [3] == connections.eval(ADD, ["n"], 3).run()
    connections.execute([("SCRIPT", "FLUSH")])
    assert [5] == await connections.eval(ADD, ["n"], 2).run_async()
    assert [b"5", 6, 7] == connections.execute([("GET", "n"), ADD.call(["n"], 1), ADD.call(["n"], 1)])


async def test_ten_thousand_tasks_at_once_share_a_few_connections(connect, redis_url):
    """10,000 concurrent misses finish without an exception, over as many links as a lane has."""
    connections = connect(redis_url)
    assert {None} == set(await asyncio.gather(*(get(connections, f"k{n}") for n in range(10_000))))
    assert connections.single.opened <= 4
    await connections.close_async()


async def test_concurrent_tasks_get_their_own_replies(connect, redis_url):
    """Values, writes and errors of one turn do not change places, with long values among them."""
    connections = connect(redis_url)
    long = b"x" * 3_000_000
    values = {f"k{n}": long if n % 97 == 0 else b"%d" % n for n in range(600)}
    sets = await asyncio.gather(*(connections.execute_async([("SET", key, value)]) for key, value in values.items()))
    assert [[b"OK"]] * 600 == sets
    got = await asyncio.gather(*(connections.execute_async([("GET", key), ("STRLEN", key)], 5) for key in values))
    assert [[value, len(value)] for value in values.values()] == got
    await connections.close_async()


async def test_cancelling_one_task_harms_no_other(connect, redis_url):
    """Before the batch leaves and while it is under way alike."""
    connections = connect(redis_url)
    connections.execute([("MSET", *(part for n in range(100) for part in (f"k{n}", n)))])
    for turns in (0, 1, 2):
        tasks = [asyncio.ensure_future(get(connections, f"k{n}")) for n in range(100)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [b"%d" % n for n in range(100) if n % 3] == [one for n, one in enumerate(outcomes) if n % 3]
        assert all(isinstance(one, asyncio.CancelledError | bytes) for one in outcomes)
    await connections.close_async()


def test_threads_share_a_bounded_pool(connect, redis_url):
    """Thirty threads over three connections get their own answers; nobody is refused."""
    connections = connect(redis_url, max_connections=3)
    wrong = []

    def work(name):
        for n in range(100):
            replies = connections.execute([("SET", name, n), ("GET", name)], 5)
            if replies != [b"OK", b"%d" % n]:
                wrong.append(replies)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong
    assert connections.single.opened <= 3


# -- loops ---------------------------------------------------------------------------------------


def test_loops_in_two_threads_and_plain_threads_at_once(connect, redis_url):
    """Each loop has links of its own; nothing is awaited across loops."""
    connections = connect(redis_url)
    connections.execute([("SET", "k", b"v")])
    seen = []

    async def reading():
        for _ in range(20):
            seen.extend(await asyncio.gather(*(get(connections, "k") for _ in range(50))))

    threads = [threading.Thread(target=asyncio.run, args=(reading(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(500):
        seen.extend(connections.execute([("GET", "k")]))
    for thread in threads:
        thread.join()
    assert ({b"v"}, 2500) == (set(seen), len(seen))


def test_loops_that_are_closed_without_notice_leak_nothing(connect, redis_server, redis_url):
    """A hundred short-lived loops leave neither sockets nor warnings, however they ended."""
    connections = connect(redis_url)
    with warnings.catch_warnings(record=True) as caught, redis_server.client() as client:
        warnings.simplefilter("always")
        for n in range(100):
            if n % 2:
                asyncio.run(get(connections, "k"))
            else:
                loop = asyncio.new_event_loop()
                loop.run_until_complete(get(connections, "k"))
                loop.close()
        del loop
        gc.collect()
        wait_until(lambda: len(client.client_list()) <= 4, 5, "closed connections")
    assert [] == [str(one.message) for one in caught]


async def test_close_wakes_who_waits(connect, blackhole):
    """A task whose connection is closed under it gets Unavailable at once."""
    connections = connect(blackhole, read_timeout=30)
    task = asyncio.ensure_future(get(connections, "k"))
    await asyncio.sleep(0.01)
    connections.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(task, 5)


async def test_a_closed_pool_opens_again(connect, redis_url):
    """close() gives sockets back; a later call, of whoever was at work, connects anew and leaves nothing open."""
    connections = connect(redis_url)
    connections.execute([("PING",)])
    assert [b"PONG"] == await connections.execute_async([("PING",)])
    await connections.close_async()
    for _ in range(2):
        assert [b"PONG"] == connections.execute([("PING",)])
        assert [b"PONG"] == await connections.execute_async([("PING",)])
        assert [] == [link for link in connections.single._links if link.sock.fileno() >= 0]


# -- faults --------------------------------------------------------------------------------------


def test_a_server_that_never_answers_costs_a_thread_no_more_than_promised(connect, blackhole):
    """Each read ends within twice the read timeout, and within a millisecond once the breaker is open."""
    connections = connect(blackhole)
    waits = [timed(lambda: connections.execute([("GET", "k")])) for _ in range(5)]
    assert min(waits) < 2 * READ_TIMEOUT
    assert max(waits) < 2 * READ_TIMEOUT + BUSY
    assert "open" == connections.breaker.state
    assert min(timed(lambda: connections.execute([("GET", "k")])) for _ in range(20)) < 0.001


async def test_a_server_that_never_answers_costs_a_task_no_more_than_promised(connect, blackhole):
    """The same for hundreds of tasks at once, and for those that come while others wait."""
    connections = connect(blackhole)

    async def ask(delay):
        await asyncio.sleep(delay)
        begun = time.perf_counter()
        with pytest.raises(Unavailable):
            await get(connections, "k")
        return time.perf_counter() - begun

    waits = await asyncio.gather(*(ask(n / 1000) for n in range(0, 600, 3)))
    assert statistics.median(waits) < 2 * READ_TIMEOUT
    assert max(waits) < 2 * READ_TIMEOUT + BUSY
    for _ in range(5):
        await ask(0)
    assert "open" == connections.breaker.state
    assert min([await ask(0) for _ in range(20)]) < 0.001
    await connections.close_async()


async def test_a_wire_that_goes_dead_under_open_connections(connect, redis_url):
    """With connections open and warm, a blackhole costs no more, and answers come back after it."""
    with TcpProxy(redis_url) as proxy:
        connections = connect(proxy.url, breaker_reset=0.1)
        assert [b"OK"] == await connections.execute_async([("SET", "k", "v")])
        assert [b"v"] == connections.execute([("GET", "k")])
        proxy.blackhole()
        for _ in range(3):
            begun = time.perf_counter()
            outcomes = await asyncio.gather(*(get(connections, "k") for _ in range(2_000)), return_exceptions=True)
            assert time.perf_counter() - begun < 2 * READ_TIMEOUT + BUSY
            assert {Unavailable} == {type(one) for one in outcomes}
        assert timed(lambda: connections.execute([("GET", "k")])) < 2 * READ_TIMEOUT + BUSY
        proxy.pass_through()
        await until_value(connections, b"v")
        await connections.close_async()


async def until_value(connections, value, seconds=10):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if [value, value] == [await get(connections, "k"), connections.execute([("GET", "k")])[0]]:
                return
        except Unavailable:
            pass
        assert time.monotonic() < deadline, "no answer came back"
        await asyncio.sleep(0.01)


async def test_a_busy_loop_is_not_taken_for_a_dead_server(connect, redis_url):
    """An answer that lies in the socket while the loop was held up past the timeout is found."""
    connections = connect(redis_url)
    await get(connections, "k")
    task = asyncio.ensure_future(get(connections, "k"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(2.5 * READ_TIMEOUT)
    assert (await task) is None
    await connections.close_async()


def test_a_restarted_server_is_met_by_idle_connections_without_an_error(connect, own_redis):
    """Reads on connections that the server closed are sent again; scripts are not executed twice."""
    connections = connect(own_redis.url)
    connections.eval(ADD, ["n"], 1).run()
    own_redis.restart()
    assert [b"1"] == connections.execute([("GET", "n")])
    assert [2] == connections.eval(ADD, ["n"], 1).run()


async def test_a_restarted_server_is_met_by_a_loops_connections_without_an_error(connect, own_redis):
    """The same for a task's."""
    connections = connect(own_redis.url)
    await connections.eval(ADD, ["n"], 1).run_async()
    await asyncio.to_thread(own_redis.restart)
    assert [b"1"] == await connections.execute_async([("GET", "n")])
    assert [2] == await connections.eval(ADD, ["n"], 1).run_async()
    await connections.close_async()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_script_whose_outcome_is_unknown_is_not_sent_again(connect, redis_server, redis_url, asynchronous):
    """The connection is cut inside the reply: the caller learns that, unless it asked for another try."""
    with TcpProxy(redis_url) as proxy:
        connections = connect(proxy.url)

        async def add(**options):
            command = connections.commands(ADD.call(["n"], 1), **options)
            return await command.run_async() if asynchronous else command.run()

        assert [1] == await add()
        proxy.cut_mid_message()
        with pytest.raises(Unavailable):
            await add()
        assert "2" == redis_server.execute("GET", "n")
        assert [3] == await add()
        proxy.cut_mid_message()
        assert [5] == await add(retry=True)
        await connections.close_async()


async def test_killing_the_server_under_load_raises_only_unavailable(connect, own_redis):
    """Reads and writes of threads and tasks while it dies and returns: answers again after it."""
    connections = connect(own_redis.url, breaker_reset=0.05)
    odd = []
    stop = threading.Event()

    def hammer():
        n = 0
        while not stop.is_set():
            n += 1
            try:
                connections.execute([("SET", "k", "v"), ("GET", "k")])
            except Unavailable:
                time.sleep(0.001)
            except BaseException as error:
                odd.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()

    async def ask(n):
        try:
            await connections.execute_async([("GET", "k")] if n % 2 else [("SET", "k", "v")])
        except Unavailable:
            pass
        except Exception as error:
            odd.append(error)

    for fault in (own_redis.kill, own_redis.start):
        for n in range(10):
            await asyncio.gather(*(ask(n) for n in range(500)))
            if n == 3:
                await asyncio.to_thread(fault)
    stop.set()
    for thread in threads:
        thread.join()
    own_redis.execute("SET", "k", "v")
    await until_value(connections, b"v")
    assert [] == odd
    await connections.close_async()


def test_what_says_not_now_is_unavailable(connect, own_redis):
    """A replica's refusal to write is no value that a caller would take for an answer."""
    connections = connect(own_redis.url)
    own_redis.execute("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(Unavailable, match="READONLY"):
        connections.execute([("SET", "k", "v")])


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "unix:///nowhere.sock", "redis+sentinel://127.0.0.1:1/m"])
async def test_nobody_there_is_unavailable(connect, url):
    """Refused connections of every kind, for threads and tasks."""
    connections = connect(url)
    with pytest.raises(Unavailable):
        connections.execute([("PING",)])
    with pytest.raises(Unavailable):
        await connections.execute_async([("PING",)])


def test_a_connection_that_is_not_greeted_in_time_is_closed(connect, redis_url, monkeypatch):
    """At once, however long the error is kept."""
    node = connect(redis_url).single
    monkeypatch.setattr(sys.modules[type(node).__module__], "WHO", b"*3\r\n$5\r\nBLPOP\r\n$5\r\nnever\r\n$1\r\n0\r\n")
    with pytest.raises(Unavailable) as kept:
        node.connect(1.0, 0.2)
    assert [link.sock.fileno() for link in node._links] == [-1]
    assert "in time" in str(kept.value)


def test_a_wrong_password_is_unavailable(connect):
    """It says so, and does not repeat what was given."""
    with RedisServer(password="right") as server:
        assert [b"PONG"] == connect(server.url).execute([("PING",)])
        with pytest.raises(Unavailable) as caught:
            connect(server.url.replace("right", "hush")).execute([("PING",)])
        assert "hush" not in str(caught.value)


def test_another_protocol_on_the_port_is_unavailable(connect):
    """A web server's answer ends the attempt."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unavailable):
            connect(f"redis://127.0.0.1:{listener.getsockname()[1]}").execute([("GET", "k")])
        thread.join()


# -- ways in -------------------------------------------------------------------------------------


async def test_unix_sockets_and_acl_users(connect):
    """A path, and a user of the access control list, for threads and tasks."""
    users = {"app": ("se:cret/", "~* &* +@all")}
    with RedisServer(unix=True, users=users) as server:
        for url in (server.unix_url, server.url_for("app")):
            connections = connect(url)
            assert [b"PONG"] == connections.execute([("PING",)])
            assert [b"PONG"] == await connections.execute_async([("PING",)])
            await connections.close_async()


@needs("tls")
async def test_tls(connect):
    """Long values both ways through TLS, for threads and tasks: what is decrypted already makes no socket readable."""
    pytest.importorskip("trustme")
    with RedisServer(tls=True) as server:
        connections = connect(server.url, read_timeout=5, write_timeout=5)
        value = os.urandom(5_000_000)
        assert [b"OK"] == connections.execute([("SET", "long", value)])
        assert [value] == connections.execute([("GET", "long")])
        assert [b"OK"] == await connections.execute_async([("SET", "long", value[::-1])])
        assert {value[::-1]} == set(await asyncio.gather(*(get(connections, "long") for _ in range(5))))
        assert {None} == set(await asyncio.gather(*(get(connections, f"k{n}") for n in range(2_000))))
        await connections.close_async()


async def test_ready_clients_are_left_alone(redis_server, redis_url):
    """A sync or asyncio client that was handed in says where Redis is; it still works after our close."""
    with redis_server.client() as client:
        client.set("k", "v")
        theirs = redis.asyncio.Redis.from_url(redis_url)
        for given in (client, theirs, (client, theirs)):
            connections = RedisConnections(DistributedCacheConfig(client=given))
            assert [b"v"] == connections.execute([("GET", "k")])
            assert b"v" == await get(connections, "k")
            await connections.close_async()
        assert ("v", b"v") == (client.get("k"), await theirs.get("k"))
        await theirs.aclose()


@pytest.mark.parametrize("after", range(1, 60))
def test_a_message_that_comes_in_pieces_is_heard_once_it_is_whole(after):
    """Cut anywhere, also where what is there so far looks like a length that fits."""
    channel, text = "c" * 20, b"x" * 450
    here, there = socket.socketpair()
    there.sendall(b"*3\r\n$9\r\nsubscribe\r\n$20\r\n%b\r\n:1\r\n" % channel.encode())
    listener = SocketListener(Link(here), channel, 1.0, sharded=False)
    message = b"*3\r\n$7\r\nmessage\r\n$20\r\n%b\r\n$450\r\n%b\r\n" % (channel.encode(), text)
    there.sendall(message[:after])
    assert listener.get_message(0.01) is None
    there.sendall(message[after:])
    assert listener.get_message(1.0) == text
    listener.close()
    there.close()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_fakeredis_works_as_a_client(kind):
    """Scripts, errors, batches and the listener on a client that has no socket."""
    fakeredis = pytest.importorskip("fakeredis")
    server = fakeredis.FakeServer()
    client = (fakeredis.FakeRedis if kind == "sync" else fakeredis.FakeAsyncRedis)(server=server, decode_responses=True)
    connections = RedisConnections(DistributedCacheConfig(client=client))
    assert [4] == connections.eval(ADD, ["n"], 4).run()
    replies = await connections.execute_async([("GET", "n"), ADD.call(["n"], 1), ("LPUSH", "n", 1), ("HGETALL", "h")])
    assert ([b"4", 5, []], True) == ([*replies[:2], replies[3]], isinstance(replies[2], ResponseError))
    listener = connections.listen("bus")
    connections.execute([("PUBLISH", "bus", b"hello")])
    assert b"hello" == listener.get_message(1)
    listener.close()
    connections.close()
    if kind == "async":
        await client.aclose()


# -- fork ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_shares_no_connection(connect, redis_server, redis_url):
    """Parent and child go on at once, on different connections; the child's end does not end the parent's."""
    connections = connect(redis_url)
    asked = ("CLIENT", "ID")
    loop = asyncio.new_event_loop()
    parents = {connections.execute([asked])[0], loop.run_until_complete(connections.execute_async([asked]))[0]}
    listener = connections.listen("bus")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sync = connections.execute([asked])[0]
            task = asyncio.run(connections.execute_async([asked]))[0]
            connections.close()
            os.write(writer, f"{sync} {task}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        children = {int(part) for part in answer.read().split()}
    os.waitpid(child, 0)
    assert (2, set()) == (len(children), children & parents)
    after = {connections.execute([asked])[0], loop.run_until_complete(connections.execute_async([asked]))[0]}
    assert parents == after
    connections.execute([("PUBLISH", "bus", b"hello")])
    assert b"hello" == listener.get_message(5)
    connections.close()
    loop.close()


def test_a_message_that_is_half_there_takes_no_later_reply_along():
    """Version 3 of the protocol may interrupt: what has begun when a reply is taken ends with the next one."""
    ours, servers = socket.socketpair()
    with servers:
        link = Link(ours)
        servers.sendall(b"+OK\r\n>2\r\n+invalidate\r\n")
        assert [b"OK"] == link.exchange(b"PING", 1, time.monotonic() + 5)
        servers.sendall(b"*0\r\n:5\r\n")
        assert [5] == link.exchange(b"PING", 1, time.monotonic() + 5)
        link.close()


# -- listening -----------------------------------------------------------------------------------


def test_a_listener_hears_what_is_published(connect, redis_url):
    """From the moment it exists, on its channel, any bytes, in order; silence is None."""
    connections = connect(redis_url)
    listener = connections.listen("one")
    messages = [b"\x00\r\n", b"", b"x" * 200_000, b"one", b"two"]
    connections.execute([("PUBLISH", "two", b"not heard"), *(("PUBLISH", "one", message) for message in messages)])
    assert messages == [listener.get_message(5) for _ in messages]
    assert listener.get_message(0.05) is None


def test_closing_a_listener_wakes_its_thread(connect, redis_url):
    """Another thread's close ends the wait at once, with Unavailable."""
    connections = connect(redis_url)
    listener = connections.listen("bus")
    outcome = []

    def listen():
        try:
            listener.get_message(60)
        except Unavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    time.sleep(0.05)
    listener.close()
    thread.join(5)
    assert 1 == len(outcome)


def test_a_listener_notices_the_servers_end(connect, own_redis):
    """A killed server is Unavailable, not silence."""
    listener = connect(own_redis.url).listen("bus")
    own_redis.kill()
    with pytest.raises(Unavailable):
        listener.get_message(5)


# -- several servers -----------------------------------------------------------------------------


async def test_sentinel_names_the_master_and_failover_is_followed(connect, own_sentinel):
    """After a failover the new master is asked, by threads and tasks, though the old one still answers."""
    connections = connect(own_sentinel.url, breaker_reset=0.1)
    connections.execute([("SET", "k", "v"), ("WAIT", 1, 5000)], 10)
    await get(connections, "k")
    new = await asyncio.to_thread(own_sentinel.failover)

    def writes():
        try:
            return connections.execute([("SET", "k", "w")]) == [b"OK"]
        except Unavailable:
            return False

    wait_until(writes, 20, "a write to the new master")
    assert "w" == new.execute("GET", "k")
    await until_value(connections, b"w")
    await connections.close_async()


async def test_a_cluster_is_routed_by_slot(connect, redis_cluster_url):
    """Keys of all slots, scripts and commands without a key, in one request, for threads and tasks."""
    connections = connect(redis_cluster_url)
    names = [f"k{n}" for n in range(200)]
    assert [b"OK"] * 200 == connections.execute([("SET", name, name) for name in names])
    assert [name.encode() for name in names] == await connections.execute_async([("GET", name) for name in names])
    assert [name.encode() for name in names] == list(await asyncio.gather(*(get(connections, name) for name in names)))
    assert [1] * 200 == connections.execute([ADD.call([f"n{n}"], 1) for n in range(200)])
    assert 3 == await drive_async(connections.master_count())
    infos = [drive(connections.server_info(n)) for n in range(3)]
    assert (3, {"master"}) == (len({info.run_id for info in infos}), {info.role for info in infos})
    await connections.close_async()


@needs("spublish")
def test_a_sharded_channel_is_heard_in_a_cluster(connect, redis_cluster_url):
    """SSUBSCRIBE at the node of the channel's slot."""
    connections = connect(redis_cluster_url)
    listener = connections.listen("{fleet}:bus", sharded=True)
    connections.execute([("SPUBLISH", "{fleet}:bus", b"hello")])
    assert b"hello" == listener.get_message(5)


def test_slots_that_move_are_followed(connect, own_cluster):
    """MOVED and ASK lead to the node that has the key, without an error."""
    connections = connect(own_cluster.url)
    key = "k"
    connections.execute([("SET", key, "v")])
    source = own_cluster.master_of(key)
    target = next(node for node in own_cluster.masters if node is not source)
    slot = source.execute("CLUSTER", "KEYSLOT", key)
    ids = {node: node.execute("CLUSTER", "MYID") for node in (source, target)}
    target.execute("CLUSTER SETSLOT", slot, "IMPORTING", ids[source])
    source.execute("CLUSTER SETSLOT", slot, "MIGRATING", ids[target])
    source.execute("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    assert [b"v", b"OK"] == connections.execute([("GET", key), ("SET", key, "w")])
    for node in (target, source):
        node.execute("CLUSTER SETSLOT", slot, "NODE", ids[target])
    assert [b"w"] == connections.execute([("GET", key)])
    assert [b"w"] == connections.execute([("GET", key)])


def test_a_cluster_node_that_is_away_does_not_take_the_others_along(connect, own_cluster):
    """Keys of the other nodes are read on; the breaker of the dead one opens alone."""
    connections = connect(own_cluster.url)
    names = {own_cluster.master_of(f"k{n}"): f"k{n}" for n in range(100)}
    dead, alive = own_cluster.masters[0], own_cluster.masters[1]
    connections.execute([("SET", name, "v") for name in names.values()])
    dead.pause()
    for _ in range(6):
        assert timed(lambda: connections.execute([("GET", names[dead])])) < 2.5 * READ_TIMEOUT
    assert [b"v"] == connections.execute([("GET", names[alive])])
    assert 1 == sum(breaker.state == "open" for breaker in connections.breakers)


def test_server_info_names_one_life_of_one_server(connect, own_redis):
    """The run id changes with a restart; version and policy are as INFO says."""
    connections = connect(own_redis.url)
    first = drive(connections.server_info())
    own_redis.restart()
    second = drive(connections.server_info())
    assert (40, True, "master", "noeviction") == (
        len(first.run_id), first.run_id != second.run_id, first.role, first.eviction,
    )  # fmt: skip
    assert first.release >= (6, 2)


def test_a_restarted_server_is_known_before_it_is_used(connect, own_redis):
    """Each life of the server is noted with the first connection to it; a connection to the same life changes nothing."""
    connections = connect(own_redis.url)
    assert connections.lives == frozenset()
    connections.execute([("PING",)])
    before = connections.lives
    info = drive(connections.server_info())
    assert before == {f"{info.run_id}:{info.replication_id}"}
    connections.suspect()
    connections.execute([("PING",)])
    assert connections.lives is before
    own_redis.restart()
    wait_until(lambda: connections.execute([("PING",)]) == [b"PONG"], 10, "an answer")
    assert before < connections.lives
    assert len(connections.lives) == 2
