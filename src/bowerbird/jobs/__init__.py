"""Work that waits its turn: one durable queue on disk, workers in their own processes, and faces that only ask.

    queue = Queue(home)                                     any number of processes may open it
    with Supervisor(queue):                                 exactly one process runs the workers
        (job,) = queue.submit("paint", [PaintRequest(...)])     durable when this returns
        for job in queue.follow(job.id): ...                    job.progress as it goes; ends when job.is_over
        job.paths                                               the pictures
        queue.cancel(job.id); queue.move(job.id, 0)

    HOME/queue.sqlite      the jobs
    HOME/jobs/<id>/        what they made, a sub-folder an attempt
    HOME/inputs/           pictures that clients sent, alone or in a folder, by content
    HOME/runs/             trainings that named no other place
    HOME/*.log             what the workers said

A face (command line, server, studio, chat tool) imports requests, progress and this package, and never torch.
"""

from bowerbird.jobs.catalogue import Catalogue as Catalogue
from bowerbird.jobs.catalogue import ModelEntry as ModelEntry
from bowerbird.jobs.job import Job as Job
from bowerbird.jobs.job import JobProgress as JobProgress
from bowerbird.jobs.job import Kind as Kind
from bowerbird.jobs.job import State as State
from bowerbird.jobs.queue import Queue as Queue
from bowerbird.jobs.queue import QueueFull as QueueFull
from bowerbird.jobs.requests import CompareRequest as CompareRequest
from bowerbird.jobs.requests import DescribeRequest as DescribeRequest
from bowerbird.jobs.requests import EvaluateRequest as EvaluateRequest
from bowerbird.jobs.requests import RunRequest as RunRequest
from bowerbird.jobs.requests import TrainRequest as TrainRequest
from bowerbird.jobs.requests import TuneRequest as TuneRequest
from bowerbird.jobs.supervisor import Supervisor as Supervisor
