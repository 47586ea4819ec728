"""The queue alone: nothing accepted is lost, nothing has two results, order is kept."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bowerbird.errors import RequestError, ResourceError
from bowerbird.jobs.job import JobError, JobProgress, Kind
from bowerbird.jobs.queue import MAX_ATTEMPTS, MAX_BATCH, Queue, QueueFull
from bowerbird.jobs.requests import TrainRequest
from bowerbird.request import PaintRequest
from tests.jobs.conftest import in_threads

PAINT: tuple[Kind, ...] = ("paint", "upscale")


def ask(**fields: object) -> PaintRequest:
    return PaintRequest(model="m", **fields)


def waiting(queue: Queue) -> list[int | None]:
    """Seeds of the waiting jobs in their order; the seed is a job's name in these tests."""
    return [job.asked().seed for job in queue.jobs(states=("queued",))]  # type: ignore[union-attr]


def test_a_request_comes_back_as_it_was_asked(queue: Queue) -> None:
    request = ask(prompt="a 'quoted' \N{SNOWMAN}", size=(640, 480), loras=[{"file": "a.safetensors", "weight": 0.5}])
    (job,) = queue.submit("paint", [request], origin="test")
    assert Queue(queue.home).get(job.id).asked() == request
    assert (job.state, job.origin) == ("queued", "test")


def test_many_workers_never_hold_one_job_twice(queue: Queue) -> None:
    """What a worker claims is its alone: every job goes to exactly one of eight threads that race for it."""
    ids = {job.id for job in queue.submit("paint", [ask(seed=i, exact=True) for i in range(40)])}
    claimed: list[str] = []
    lock = threading.Lock()

    def worker(number: int) -> None:
        while True:
            lease, jobs = queue.claim(f"w{number}", PAINT)
            if not jobs:
                return
            for job in jobs:
                assert queue.finish(job.id, lease)
                with lock:
                    claimed.append(job.id)

    in_threads(8, worker)
    assert sorted(claimed) == sorted(ids)
    assert queue.counts()["done"] == 40


def test_a_lease_that_was_taken_over_gives_no_result(queue: Queue) -> None:
    """A worker thought dead that comes back finds its job another's: the first result that is recorded is the only one."""
    (job,) = queue.submit("paint", [ask()])
    old, _ = queue.claim("w", PAINT)
    queue.recover("w")
    new, _ = queue.claim("w", PAINT)
    assert queue.finish(job.id, new, result={"by": "new"})
    assert not queue.finish(job.id, old, result={"by": "old"})
    assert not queue.finish(job.id, new, result={"by": "new again"})
    assert queue.get(job.id).result == {"by": "new"}


def test_a_job_that_kills_its_workers_is_given_up_and_the_others_are_not(queue: Queue) -> None:
    """It also waits alone from its first death on: what shares its batch is not to blame."""
    poison, other = queue.submit("paint", [ask(seed=1), ask(seed=2)])
    for attempt in range(MAX_ATTEMPTS):
        _, jobs = queue.claim("w", PAINT)
        assert len(jobs) == (2 if attempt == 0 else 1)
        queue.recover("w")
        if attempt == 0:
            lease, _ = queue.claim("w", PAINT)
            queue.release(lease)
    assert queue.get(poison.id).state == "failed"
    assert "memory" in str(queue.get(poison.id).error)
    assert queue.get(other.id).state == "queued"


def test_giving_back_blames_nobody(queue: Queue) -> None:
    (job,) = queue.submit("paint", [ask()])
    for _ in range(2 * MAX_ATTEMPTS):
        lease, _ = queue.claim("w", PAINT)
        queue.release(lease)
    assert (queue.get(job.id).state, queue.get(job.id).attempts) == ("queued", 0)


def test_the_bound_takes_all_or_nothing(queue: Queue) -> None:
    queue.submit("paint", [ask(count=45)])
    with pytest.raises(QueueFull) as full:
        queue.submit("paint", [ask(), ask(count=5)])
    assert full.value.retry_after_seconds >= 1
    assert queue.counts()["queued"] == 1
    queue.submit("paint", [ask(count=5)])  # exactly full


def test_the_same_key_is_the_same_job(queue: Queue) -> None:
    """A client that heard no answer asks again; it must not get a second picture, and nobody else's."""
    first = queue.submit("paint", [ask(seed=1), ask(seed=2)], key="k")
    assert [job.id for job in queue.submit("paint", [ask(seed=1), ask(seed=2)], key="k")] == [job.id for job in first]
    with pytest.raises(RequestError, match="another request"):
        queue.submit("paint", [ask(seed=3)], key="k")
    assert queue.counts()["queued"] == 2


def test_cancelling_is_final(queue: Queue) -> None:
    waits, runs = queue.submit("paint", [ask(seed=1), ask(seed=2)])
    queue.cancel(waits.id)
    lease, jobs = queue.claim("w", PAINT)
    assert [job.id for job in jobs] == [runs.id]
    queue.cancel(runs.id)
    assert queue.held(lease) == set()
    assert not queue.finish(runs.id, lease)
    assert {queue.get(job.id).state for job in (waits, runs)} == {"cancelled"}
    queue.recover("w")
    assert queue.claim("w", PAINT)[1] == []


@settings(max_examples=15, deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 8)), max_size=12))
def test_moving_is_taking_out_and_putting_in(tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int]]) -> None:
    """The order is a list's after the same moves."""
    queue, expected = Queue(tmp_path_factory.mktemp("q")), list(range(6))
    jobs = queue.submit("paint", [ask(seed=seed) for seed in expected])
    for seed, to in moves:
        queue.move(jobs[seed].id, to)
        expected.remove(seed)
        expected.insert(min(max(to, 0), 5), seed)
    assert waiting(queue) == expected


def test_what_is_alike_is_claimed_together(queue: Queue) -> None:
    """Same model, size and steps: one batch, whatever is to be seen; another size, or a request for exact bytes, waits its turn."""
    asked = [ask(seed=0, prompt="a"), ask(seed=1, size=(8, 8)), ask(seed=2, prompt="b", label="cat"), ask(seed=3, exact=True), ask(seed=4)]
    queue.submit("paint", asked)
    batches = []
    while (claimed := queue.claim("w", PAINT))[1]:
        batches.append([job.asked().seed for job in claimed[1]])  # type: ignore[union-attr]
    assert batches == [[0, 2, 4], [1], [3]]


def test_a_batch_has_a_limit(queue: Queue) -> None:
    queue.submit("paint", [ask(seed=i, count=3) for i in range(8)])
    _, jobs = queue.claim("w", PAINT)
    assert len(jobs) == MAX_BATCH // 3


def test_progress_and_error_are_kept(queue: Queue) -> None:
    (job,) = queue.submit("paint", [ask()])
    lease, _ = queue.claim("w", PAINT)
    progress = JobProgress(phase="paint", done=1, total=4, unit="steps", seconds_left=1.5)
    queue.report(job.id, lease, progress)
    assert queue.get(job.id).progress == progress
    queue.finish(job.id, lease, notes=["a note"], error=JobError(kind="RequestError", message="no"))
    read = queue.get(job.id)
    assert (read.state, read.notes, str(read.error and read.error.message)) == ("failed", ["a note"], "no")


def test_following_ends_with_the_job(queue: Queue) -> None:
    (job,) = queue.submit("paint", [ask()])

    def work(number: int) -> None:
        lease, _ = queue.claim("w", PAINT)
        queue.finish(job.id, lease)

    states = [queue.get(job.id).state]
    worker = threading.Thread(target=work, args=(0,))
    worker.start()
    states += [seen.state for seen in queue.follow(job.id, timeout=30)]
    worker.join()
    assert states[0] == "queued" and states[-1] == "done"


def test_a_training_has_a_place_from_the_beginning(queue: Queue) -> None:
    """The folder is fixed when the job is accepted, or it could not go on there after a crash."""
    one, other = queue.submit("train", [TrainRequest(pictures=Path("birds")), TrainRequest(pictures=Path("birds"))])
    places = {job.request["out"] for job in (one, other)}
    assert len(places) == 2 and all(str(queue.home / "runs") in place for place in places)


def test_pruning_takes_only_old_results_of_that_face(queue: Queue, tmp_path: Path) -> None:
    kept, gone = queue.submit("paint", [ask(seed=1)], origin="studio") + queue.submit("paint", [ask(seed=2)], origin="api")
    lease, jobs = queue.claim("w", PAINT)
    for job in jobs:
        (queue.home / "jobs" / job.id).mkdir()
        queue.finish(job.id, lease)
    assert queue.prune("api", older_than_seconds=3600) == 0
    assert queue.prune("api", older_than_seconds=-1) == 1
    assert [job.id for job in queue.jobs()] == [kept.id]
    assert not (queue.home / "jobs" / gone.id).exists()


def test_a_damaged_queue_is_said_in_a_sentence(queue: Queue) -> None:
    for name in ("queue.sqlite-wal", "queue.sqlite-shm"):
        (queue.home / name).unlink(missing_ok=True)
    (queue.home / "queue.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ResourceError, match="cannot be"):
        Queue(queue.home)


def test_a_queue_that_is_damaged_in_its_middle_is_told_when_it_is_opened(queue: Queue) -> None:
    """Its first page alone would open."""
    queue.submit("paint", [PaintRequest(prompt="x" * 2_000) for _ in range(40)])
    queue._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = queue.home / "queue.sqlite"
    data = bytearray(file.read_bytes())
    data[4096 * 3 :] = b"\xff" * (len(data) - 4096 * 3)
    other = queue.home / "other"
    other.mkdir()
    (other / "queue.sqlite").write_bytes(data)
    with pytest.raises(ResourceError, match="cannot be"):
        Queue(other)


@pytest.mark.parametrize("damage", [b"\xff", b"{", b"[1]"], ids=["no text", "no JSON", "no request"])
def test_a_job_that_was_damaged_is_said_in_a_sentence(queue: Queue, damage: bytes) -> None:
    """The pages of the file are sound, and what stands in them is not."""
    (job,) = queue.submit("paint", [ask()])
    queue._db.execute("UPDATE jobs SET request = CAST(? AS TEXT)", (damage,))
    with pytest.raises(ResourceError, match=rf"{job.id}.*damaged"):
        queue.get(job.id)


def test_the_queue_is_durable_before_it_answers(queue: Queue) -> None:
    """WAL with FULL is what makes `submit` a promise; both are connection settings that are easily lost."""
    assert queue._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert queue._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert isinstance(queue._db, sqlite3.Connection)
