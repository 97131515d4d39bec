"""Records what a GPU is told to do, and tells it so again with one call."""

from collections.abc import Callable

import torch
from torch import Tensor


class GraphRecorder:
    """Records CUDA graphs, one after the other, which share their intermediate memory.

    So none may run while another's result is still wanted.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Returns what replays ``compute``, which must read and write tensors that stay in their places."""
        # Libraries choose kernels and allocate workspaces at their first call, which cannot be recorded.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = compute()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay
