"""Running graphs on the CPU."""

from pliant.errors import GgmlError
from pliant.ggml.declarations import TensorStruct, bind
from pliant.ggml.memory import advise_huge_pages
from pliant.ggml.owner import Owner
from pliant.ggml.tensor import Tensor

_STATUS_SUCCESS = 0


class Backend(Owner):
    """Owns ggml's CPU backend. Not thread-safe: one graph at a time."""

    def __init__(self, threads: int) -> None:
        self._c = bind()
        failed = "ggml could not start its CPU backend"
        self._own(self._c.backend_cpu_init(), self._c.backend_free, failed)
        self._threads = 0
        self.threads = threads

    @property
    def threads(self) -> int:
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        if threads < 1:
            raise GgmlError(f"threads must be at least 1, got {threads}")
        if threads != self._threads:
            self._c.backend_cpu_set_n_threads(self.address, threads)
            self._threads = threads

    def compute(self, graph: int) -> None:
        """Run the graph at address `graph`; other Python threads run meanwhile."""
        status = self._c.backend_graph_compute(self.address, graph)
        if status != _STATUS_SUCCESS:
            raise GgmlError(f"ggml could not compute a graph (status {status})")


class GraphAllocator(Owner):
    """Owns the memory of intermediate results, shared by every graph allocated here.

    Graphs that share it can be run in any order, one at a time, until `generation` changes: then
    the memory has moved and all of them must be built again.
    """

    def __init__(self) -> None:
        self._c = bind()
        failed = "ggml could not make a graph allocator"
        address = self._c.gallocr_new(self._c.backend_cpu_buffer_type())
        self._own(address, self._c.gallocr_free, failed)
        self.nbytes = 0
        self.generation = 0

    def allocate(self, graph: int) -> None:
        """Give every tensor of the graph memory.

        Raises GgmlError if there is not enough; the old memory may then be gone, too.
        """
        if not self._c.gallocr_alloc_graph(self.address, graph):
            self.generation += 1
            raise GgmlError("not enough memory for a graph's intermediate results")
        nbytes = self._c.gallocr_get_buffer_size(self.address, 0)
        if nbytes != self.nbytes:
            self.nbytes = nbytes
            self.generation += 1

    def use_huge_pages(self, inside: Tensor) -> None:
        """Ask for huge pages under the memory that holds `inside` (a tensor allocated here)."""
        buffer = TensorStruct.from_address(inside.address).buffer
        advise_huge_pages(self._c.backend_buffer_get_base(buffer), self.nbytes)
