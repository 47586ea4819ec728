"""The queue: one SQLite database, opened by any number of processes.

A job that was accepted is on the disk (WAL, synchronous FULL) before `submit` returns, and has exactly one result: a
worker holds a job by a lease, a token that no other worker knows, and only who holds it can finish it.  Progress is
written on a connection that does not wait for the disk, because losing the last of it in a power cut costs nothing.

A worker that died loses its leases when the next one of its name begins, or when they run out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bowerbird.errors import BowerbirdError, RequestError, ResourceError
from bowerbird.jobs.job import OVER, Job, JobError, JobProgress, Kind, State
from bowerbird.jobs.requests import AnyRequest, CompareRequest, RunRequest, TrainRequest
from bowerbird.request import PaintRequest
from bowerbird.storage import Disk, ensure_folder

VERSION = 1
LEASE_SECONDS = 60.0
MAX_ATTEMPTS = 5  # deaths of a worker over one job, after which the job is to blame
MAX_BATCH = 16  # pictures painted together
POLL_SECONDS = 0.01  # between two looks at whether anything changed; a look takes microseconds

# What may differ between requests that are painted as one batch.
_OF_A_PICTURE = {"prompt", "negative", "label", "seed", "count", "format"}

_TABLES = f"""
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'queued',
    position REAL NOT NULL, batch TEXT, pictures INTEGER NOT NULL, origin TEXT NOT NULL, previews INTEGER NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, attempts INTEGER NOT NULL DEFAULT 0,
    lease TEXT, worker TEXT, lease_until REAL,
    progress TEXT, paths TEXT NOT NULL DEFAULT '[]', result TEXT NOT NULL DEFAULT '{{}}', notes TEXT NOT NULL DEFAULT '[]', error TEXT,
    key TEXT, key_body TEXT
);
CREATE INDEX IF NOT EXISTS waiting ON jobs (state, position);
CREATE INDEX IF NOT EXISTS by_age ON jobs (created);
CREATE INDEX IF NOT EXISTS by_key ON jobs (key) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, pid INTEGER, seen REAL, doing TEXT);
PRAGMA user_version = {VERSION};
"""


class QueueFull(BowerbirdError):  # noqa: N818 - a state of the queue
    """The queue has no room for the jobs; nothing was accepted.  retry_after_seconds: when there may be room."""

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnknownJob(RequestError):  # noqa: N818
    """There is no job of that name."""


def default_home() -> Path:
    """$BOWERBIRD_HOME, or `bowerbird` where the system keeps a user's data."""
    if chosen := os.environ.get("BOWERBIRD_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/bowerbird"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "bowerbird/data"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "bowerbird"


class Queue:
    """The queue in `home`.  max_waiting: how many pictures and other jobs may wait."""

    def __init__(self, home: Path | None = None, max_waiting: int = 1000) -> None:
        self.home = (home or default_home()).absolute()
        self.max_waiting = max_waiting
        self._local = threading.local()
        for folder in (self.home, self.home / "jobs", self.home / "inputs", self.home / "runs"):
            ensure_folder(Disk(), folder)
        with self._transaction() as db:
            if (told := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(told)
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, VERSION):
                raise ResourceError(f"the queue in {str(self.home)!r} is of another version ({found}). Name another folder.")
            for statement in _TABLES.split(";"):
                db.execute(statement)

    # ------------------------------------------------------------------------------------------------ asking

    def submit(
        self, kind: Kind, requests: Sequence[AnyRequest], *, origin: str = "", previews: int = 0, key: str | None = None
    ) -> list[Job]:
        """Accept all of the requests or none; durable when this returns.

        key: the client's own name for this submission; the same key with the same requests gives the same jobs again.
        QueueFull when there is no room, RequestError when the key was used for something else.
        """
        body = [request.model_dump(mode="json") for request in requests]
        digest = hashlib.sha256(json.dumps([kind, body], sort_keys=True).encode()).hexdigest()
        with self._transaction() as db:
            if key is not None and (known := db.execute("SELECT * FROM jobs WHERE key = ? ORDER BY position", (key,)).fetchall()):
                if known[0]["key_body"] != digest:
                    raise RequestError("this Idempotency-Key was used for another request; use a new one.")
                return [_job(row) for row in known]
            self._check_room(db, requests)
            last = db.execute("SELECT coalesce(max(position), 0) FROM jobs").fetchone()[0]
            now, ids = time.time(), [secrets.token_hex(8) for _ in requests]
            for number, (job_id, request) in enumerate(zip(ids, requests, strict=True)):
                request = self._with_place(request, job_id)
                db.execute(
                    "INSERT INTO jobs (id, kind, request, position, batch, pictures, origin, previews, created, key, key_body) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job_id, kind, json.dumps(request.model_dump(mode="json")), last + 1 + number,
                        _batch_key(kind, request, previews), _pictures(request), origin, previews, now, key, digest,
                    ),
                )  # fmt: skip
            return [_job(db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()) for job_id in ids]

    def check_room(self, requests: Sequence[AnyRequest]) -> None:
        """QueueFull when they could not be accepted now.  A glance that waits for no writer, to refuse many at little cost."""
        self._check_room(self._db, requests)

    def get(self, job_id: str) -> Job:
        """The job as it is now; UnknownJob when there is none."""
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJob(f"there is no job {job_id!r:.40}.")
        return _job(row)

    def jobs(self, states: Sequence[State] = (), kinds: Sequence[Kind] = (), limit: int = 100, before: float | None = None) -> list[Job]:
        """Jobs, the newest first; those that wait alone come in their order.  before: only those created earlier, to page on."""
        wanted = [("state", states), ("kind", kinds)]
        where = " AND ".join(f"{column} IN ({', '.join('?' * len(values))})" for column, values in wanted if values) or "1"
        order = "position" if tuple(states) == ("queued",) else "created DESC, position DESC"
        values = [value for _, each in wanted for value in each]
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {where} AND created < ? ORDER BY {order} LIMIT ?", (*values, before or 1e18, limit)
        ).fetchall()
        return [_job(row) for row in rows]

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        counts: dict[State, int] = dict.fromkeys(("queued", "running", *OVER), 0)
        counts |= dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return counts

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that is not over; a worker on it stops within a step.  Otherwise nothing changes."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'cancelled', finished = ?, lease = NULL WHERE id = ? AND state IN ('queued', 'running')",
                (time.time(), job_id),
            )
        return self.get(job_id)

    def move(self, job_id: str, to: int) -> None:
        """Give a waiting job the place `to` among those that wait, 0 being the next; RequestError when it does not wait."""
        with self._transaction() as db:
            others = db.execute("SELECT id, position FROM jobs WHERE state = 'queued' ORDER BY position").fetchall()
            if job_id not in [row["id"] for row in others]:
                raise RequestError(f"the job {job_id!r:.40} is not waiting; only those that wait have an order.")
            places = [row["position"] for row in others if row["id"] != job_id]
            to = min(max(to, 0), len(places))
            low = places[to - 1] if to else (places[0] - 2 if places else 0)
            high = places[to] if to < len(places) else low + 2
            db.execute("UPDATE jobs SET position = ? WHERE id = ?", ((low + high) / 2, job_id))

    def forget(self, job_id: str) -> None:
        """Remove a job that is over, with the pictures it made; a training's run folder stays."""
        with self._transaction() as db:
            if db.execute(f"DELETE FROM jobs WHERE id = ? AND state IN {OVER}", (job_id,)).rowcount:
                shutil.rmtree(self.home / "jobs" / job_id, ignore_errors=True)

    def prune(self, origin: str, older_than_seconds: float) -> int:
        """Forget what that face asked for and nobody kept; how many jobs went."""
        limit = time.time() - older_than_seconds
        old = self._db.execute(f"SELECT id FROM jobs WHERE origin = ? AND finished < ? AND state IN {OVER}", (origin, limit)).fetchall()
        for row in old:
            self.forget(row["id"])
        return len(old)

    def keep_input(self, data: bytes, suffix: str) -> Path:
        """A file that a client sent, kept by its content; the same bytes are kept once."""
        path = self.home / "inputs" / f"{hashlib.sha256(data).hexdigest()[:32]}{suffix}"
        if not path.exists():
            unfinished = path.with_name(f".tmp-{secrets.token_hex(8)}")
            Disk().write(unfinished, data)
            Disk().replace(unfinished, path)
        return path

    def keep_folder(self, files: Mapping[str, bytes]) -> Path:
        """Files that a client sent together, kept under these names as a folder, by names and content; the same ones are kept once."""
        digest = hashlib.sha256(json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}).encode())
        folder = self.home / "inputs" / digest.hexdigest()[:32]
        if not folder.exists():
            unfinished = folder.with_name(f".tmp-{secrets.token_hex(8)}")
            Disk().make_folder(unfinished)
            for name, data in files.items():
                Disk().write(unfinished / name, data)
            Disk().sync_folder(unfinished)
            try:
                Disk().rename(unfinished, folder)
            except OSError:  # somebody else has kept them meanwhile
                Disk().remove(unfinished)
                if not folder.exists():
                    raise
        return folder

    # ------------------------------------------------------------------------------------------------ following

    def version(self) -> int:
        """A number that changes whenever another connection has written; reading it takes microseconds."""
        return int(self._connection("watch", "NORMAL").execute("PRAGMA data_version").fetchone()[0])

    def wait_for_change(self, seen: int, timeout: float) -> int:
        """Block until `version` is no longer `seen`, or for so many seconds; the version then."""
        end = time.monotonic() + timeout
        while (now := self.version()) == seen and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return now

    def glance(self, job_ids: Sequence[str]) -> dict[str, tuple[str, str | None]]:
        """State and progress of many jobs at once, to see which of them changed."""
        found: dict[str, tuple[str, str | None]] = {}
        for start in range(0, len(job_ids), 500):
            some = job_ids[start : start + 500]
            rows = self._db.execute(f"SELECT id, state, progress FROM jobs WHERE id IN ({', '.join('?' * len(some))})", some)
            found |= {row["id"]: (row["state"], row["progress"]) for row in rows}
        return found

    def follow(self, job_id: str, timeout: float | None = None) -> Iterator[Job]:
        """The job now and at each change, until it is over or `timeout` seconds have passed."""
        end = None if timeout is None else time.monotonic() + timeout
        version, last = self.version(), None
        while True:
            job = self.get(job_id)
            if job != last:
                yield job
                last = job
            if job.is_over or (end is not None and time.monotonic() > end):
                return
            version = self.wait_for_change(version, 0.5)

    def seconds_of(self, kind: Kind) -> float | None:
        """How long a job of this kind took, averaged over the last twenty; None when none was done yet."""
        return self._mean_seconds(self._db, f"kind = '{kind}'")

    def forecast(self) -> dict[str, float]:
        """For each job that waits, in how many seconds it should be done, where enough is known to say."""
        ahead: dict[bool, float] = {}
        expected: dict[str, float] = {}
        for job in self.jobs(states=("running",), limit=1000) + self.jobs(states=("queued",), limit=10_000):
            each, lane = self.seconds_of(job.kind), job.kind not in ("train", "tune", "evaluate")
            if job.state == "running" and job.progress is not None:
                each = job.progress.seconds_left or each
            if each is None:
                continue
            ahead[lane] = ahead.get(lane, 0.0) + each
            if job.state == "queued":
                expected[job.id] = ahead[lane]
        return expected

    # ------------------------------------------------------------------------------------------------ working

    def recover(self, worker: str) -> list[str]:
        """Take back what a dead worker held: everything of that name, and whatever lease ran out.  Ids of jobs given up on.

        Call it when the caller is the only worker of that name.
        """
        with self._transaction() as db:
            dead = db.execute(
                "SELECT id, attempts, kind FROM jobs WHERE state = 'running' AND (worker = ? OR lease_until < ?)", (worker, time.time())
            ).fetchall()
            given_up = []
            for row in dead:
                if row["attempts"] + 1 >= MAX_ATTEMPTS:
                    given_up.append(row["id"])
                    message = f"the worker died {MAX_ATTEMPTS} times over this job; the memory may be too small for it."
                    error = JobError(kind="ResourceError", message=message).model_dump_json()
                    values = {"state": "failed", "finished": time.time(), "error": error}
                else:
                    values = {"state": "queued", "progress": None}
                columns = ", ".join(f"{name} = ?" for name in values)
                db.execute(f"UPDATE jobs SET {columns}, attempts = attempts + 1, lease = NULL WHERE id = ?", (*values.values(), row["id"]))
        return given_up

    def claim(self, worker: str, kinds: Sequence[Kind]) -> tuple[str, list[Job]]:
        """The next job of these kinds and, of those that wait, what can be painted in one batch with it; and the lease on them.

        An empty list when there is nothing to do.  What has already cost a worker its life is painted alone.
        """
        lease, now = secrets.token_hex(8), time.time()
        marks = ", ".join("?" * len(kinds))
        next_one = f"SELECT * FROM jobs WHERE state = 'queued' AND kind IN ({marks}) ORDER BY position LIMIT 1"
        if self._db.execute(next_one, kinds).fetchone() is None:  # the usual case takes no lock
            return lease, []
        with self._transaction() as db:
            first = db.execute(next_one, kinds).fetchone()
            if first is None:
                return lease, []
            rows = [first]
            if first["batch"] is not None and not first["attempts"]:
                room = MAX_BATCH - first["pictures"]
                alike = "SELECT * FROM jobs WHERE state = 'queued' AND batch = ? AND attempts = 0 AND id != ? ORDER BY position"
                for row in db.execute(alike, (first["batch"], first["id"])):
                    if row["pictures"] <= room:
                        rows.append(row)
                        room -= row["pictures"]
            for row in rows:
                db.execute(
                    "UPDATE jobs SET state = 'running', started = coalesce(started, ?), lease = ?, worker = ?, lease_until = ? "
                    "WHERE id = ?",
                    (now, lease, worker, now + LEASE_SECONDS, row["id"]),
                )
            return lease, [_job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone()) for row in rows]

    def held(self, lease: str) -> set[str]:
        """Ids of the jobs this lease still holds: those not cancelled."""
        return {row["id"] for row in self._light.execute("SELECT id FROM jobs WHERE lease = ? AND state = 'running'", (lease,))}

    def report(self, job_id: str, lease: str, progress: JobProgress) -> None:
        """Say how far a job is."""
        self._light.execute("UPDATE jobs SET progress = ? WHERE id = ? AND lease = ?", (progress.model_dump_json(), job_id, lease))

    def renew(self, lease: str) -> None:
        """Keep the lease."""
        self._light.execute("UPDATE jobs SET lease_until = ? WHERE lease = ?", (time.time() + LEASE_SECONDS, lease))

    def finish(
        self,
        job_id: str,
        lease: str,
        *,
        paths: Sequence[Path] = (),
        result: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
        error: JobError | None = None,
    ) -> bool:
        """Record the one result of a job; False when it is no longer this lease's to give (cancelled, or taken over)."""
        with self._transaction() as db:
            done = db.execute(
                "UPDATE jobs SET state = ?, finished = ?, paths = ?, result = ?, notes = ?, error = ?, lease = NULL "
                "WHERE id = ? AND lease = ? AND state = 'running'",
                (
                    "failed" if error else "done", time.time(), json.dumps([str(path) for path in paths]), json.dumps(result or {}),
                    json.dumps(list(notes)), error.model_dump_json() if error else None, job_id, lease,
                ),
            )  # fmt: skip
            return done.rowcount == 1

    def release(self, lease: str) -> None:
        """Give back jobs that were not finished, to be done again from where they are; nobody is to blame."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state = 'queued', lease = NULL WHERE lease = ? AND state = 'running'", (lease,))

    def stamp(self, worker: str, doing: str) -> None:
        """A worker's sign of life."""
        self._light.execute(
            "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET pid = excluded.pid, seen = excluded.seen, "
            "doing = excluded.doing",
            (worker, os.getpid(), time.time(), doing),
        )

    def workers(self) -> dict[str, tuple[float, str]]:
        """For each worker: how many seconds ago it gave a sign of life, and what it was doing."""
        return {row["name"]: (time.time() - row["seen"], row["doing"]) for row in self._db.execute("SELECT * FROM workers")}

    # ------------------------------------------------------------------------------------------------ the database

    def _with_place(self, request: AnyRequest, job_id: str) -> AnyRequest:
        """A training's run folder is fixed when it is accepted, so that it goes on there after a crash."""
        if not isinstance(request, RunRequest) or request.out is not None:
            return request
        what = Path(request.recipe).stem if isinstance(request, TrainRequest) else "tuned"
        name = f"{request.pictures.absolute().stem}-{what}-{job_id[:4]}"
        return request.model_copy(update={"out": self.home / "runs" / name})

    def _check_room(self, db: sqlite3.Connection, requests: Sequence[AnyRequest]) -> None:
        new = sum(_pictures(request) for request in requests)
        waiting = db.execute("SELECT coalesce(sum(pictures), 0) FROM jobs WHERE state = 'queued'").fetchone()[0]
        if waiting + new > self.max_waiting:
            raise QueueFull(f"{waiting} pictures are waiting and {self.max_waiting} may; ask again later.", self._retry_after(db))

    def _retry_after(self, db: sqlite3.Connection) -> int:
        """Seconds until a waiting job should have left, between 1 and 60."""
        return min(60, max(1, round(self._mean_seconds(db, "kind = 'paint'") or 1)))

    @staticmethod
    def _mean_seconds(db: sqlite3.Connection, where: str) -> float | None:
        query = f"SELECT finished - started AS s FROM jobs WHERE state = 'done' AND {where} ORDER BY finished DESC LIMIT 20"
        mean = db.execute(f"SELECT avg(s) FROM ({query})").fetchone()[0]
        return None if mean is None else float(mean)

    @property
    def _db(self) -> sqlite3.Connection:
        return self._connection("durable", "FULL")

    @property
    def _light(self) -> sqlite3.Connection:
        """Writes that may be lost in a power cut, never half: they join the log, and the next durable write syncs it."""
        return self._connection("light", "NORMAL")

    def _connection(self, name: str, synchronous: str) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, name, None)
        if found is None:
            try:
                found = sqlite3.connect(self.home / "queue.sqlite", timeout=30, isolation_level=None, check_same_thread=False)
                found.row_factory = sqlite3.Row
                found.text_factory = lambda data: data.decode("utf-8", "replace")  # of a damaged file; what it makes of a job, `_job` sees
                found.execute("PRAGMA journal_mode = WAL")
                found.execute(f"PRAGMA synchronous = {synchronous}")
            except sqlite3.DatabaseError as error:
                raise ResourceError(
                    f"the queue in {str(self.home)!r} cannot be opened ({error}). Name another folder, or move it away."
                ) from error
            setattr(self._local, name, found)
        return found

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and nobody else writes meanwhile."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.DatabaseError as error:
            raise ResourceError(
                f"the queue in {str(self.home)!r} cannot be written ({error}). Make room, or name another folder."
            ) from error
        try:
            yield db
            db.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):  # the disk's or the file's fault, not ours
                raise ResourceError(
                    f"the queue in {str(self.home)!r} cannot be written ({error}). Make room, or name another folder."
                ) from error
            raise


def _pictures(request: AnyRequest) -> int:
    """What a request counts for in the bound of the queue."""
    if isinstance(request, CompareRequest):
        return len(request.comparison().requests)
    return request.count if isinstance(request, PaintRequest) else 1


def _batch_key(kind: Kind, request: AnyRequest, previews: int) -> str | None:
    """Equal for requests that can be painted as one batch; None for those that are done alone."""
    if kind != "paint" or not isinstance(request, PaintRequest):
        return None
    if previews or request.exact or request.image is not None or request.count >= MAX_BATCH:
        return None
    return json.dumps(request.model_dump(mode="json", exclude=_OF_A_PICTURE), sort_keys=True)


def _job(row: sqlite3.Row) -> Job:
    fields = {name: row[name] for name in ("id", "kind", "state", "origin", "previews", "created", "started", "finished", "attempts")}
    written = ("request", "paths", "result", "notes", "progress", "error")
    try:
        parsed = {name: json.loads(row[name]) for name in written if row[name] is not None}
        return Job.model_validate({**fields, **parsed})
    except ValueError as error:
        raise ResourceError(
            f"the queue holds a job that cannot be read ({row['id']!r:.40}): its file was damaged. Name another folder, or move it away."
        ) from error
