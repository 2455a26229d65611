"""Swaths on many processes and machines, through Dask distributed: the extra ``pfmap[dask]``."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pfmap.core.errors import UsageError, refuse_without
from pfmap.mapping.run_options import OpenedCluster

if TYPE_CHECKING:
    from pfmap.cluster.coordinator import Cluster


@contextmanager
def opened_cluster(
    cluster: str | OpenedCluster | None, workers: int | None, device: str, say: Callable[[str], None]
) -> Iterator["Cluster"]:
    """Give what computes swaths elsewhere, for any number of scenes.

    That is a running cluster, by its address or scheduler file, or one that this function gave and that stays
    open; or so many workers of this machine.

    Raises:
        UsageError: both were asked for, no worker, or the extra is missing.
        ClusterError: nobody answers at the address, or there are more workers than GPUs.
    """
    if cluster is not None and workers is not None:
        raise UsageError("a running cluster and workers of this machine are asked for: choose one of them")
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot compute: use 1 or more")
    refuse_without("distributed", "dask", "mapping with workers needs")
    from pfmap.cluster.coordinator import Cluster, refuse_numbered  # dask takes a second to load
    from pfmap.cluster.link import Link, local_cluster, quiet
    from pfmap.cluster.worker import look_around
    from pfmap.mapping.runtime import choose_device

    if isinstance(cluster, Cluster):
        yield cluster
    elif cluster is not None:
        with quiet(), Link(str(cluster), say) as link:
            yield Cluster(link, say)
    else:
        assert workers is not None
        refuse_numbered(device)
        chosen = choose_device(device)
        with quiet(), local_cluster(workers, chosen) as started, Link(started, say) as link:
            for address in link.workers():  # torch loads there while the scene is being looked at here
                link.submit(look_around, device, "auto", worker=address, on_done=lambda: None)
            yield Cluster(link, say, chosen)


def dask_setup(_worker: object) -> None:
    """Have a local worker leave Ctrl-C, which a terminal sends to all processes, to the one that started it.

    Dask looks for it by this name, before the worker does anything else.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
