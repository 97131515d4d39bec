"""Records what a GPU is told to do, and tells it so again with one call."""

from collections.abc import Callable
from typing import TypeVar

import torch

Computed = TypeVar("Computed")


class GraphRecorder:
    """Records CUDA graphs, one after the other, which share their intermediate memory.

    So none may run while another's result is still wanted. When all of them are dropped, so must this be:
    torch takes back the memory of a pool that no graph uses, and refuses to record into it again.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # For trying as for recording: libraries keep a workspace for each stream that they have seen.
        self._stream = torch.cuda.Stream()

    def __call__(self, compute: Callable[[], Computed]) -> Callable[[], Computed]:
        """Returns what replays ``compute``, which must read and write tensors that stay in their places."""
        graph = torch.cuda.CUDAGraph()
        # Entered once more, because a recording that fails leaves its own stream the current one.
        with torch.cuda.stream(torch.cuda.current_stream()):
            self._try(compute)
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                result = compute()

        def replay() -> Computed:
            graph.replay()
            return result

        return replay

    def _try(self, compute: Callable[[], object]) -> None:
        """Libraries choose kernels and allocate workspaces at their first call, which cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute()
        torch.cuda.current_stream().wait_stream(self._stream)
