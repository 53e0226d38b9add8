"""How large an actor is: what it has for itself, so that values which it reads from the object store do not wear it out."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from flowmason_ray.engine.executors.ray_actor import own_mib

SIZE_MIB = 256


def touched(memory: mmap.mmap | bytearray) -> int:
    """Bring all pages of some memory in."""
    for at in range(0, len(memory), mmap.PAGESIZE):
        memory[at] = 1
    return len(memory)


def test_shared_memory_does_not_count_and_memory_of_its_own_does(tmp_path: Path) -> None:
    size = SIZE_MIB * 2**20
    with (tmp_path / "shared").open("w+b") as file:
        os.truncate(file.fileno(), size)
        before = own_mib()
        with mmap.mmap(file.fileno(), size) as shared:
            touched(shared)
            assert own_mib() - before < SIZE_MIB / 2
    before = own_mib()
    own = bytearray(size)
    touched(own)
    assert own_mib() - before > SIZE_MIB / 2
    del own
