"""Proves torch on this machine, as a script of its own: ``python -I proof.py [--gpu]``.

Prints where torch computes, or what is wrong and what to do, and then ends with 1. It is a script because
a torch that does not fit may end the process that imports it.
"""

import sys


def fault(*, needs_gpu: bool) -> str | None:
    """What is wrong with torch here, and what to do; None where it computes right."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return (
            f"torch cannot be imported ({error}). Where a CUDA library is missing, install it (libcusparseLt "
            "is in the package libcusparselt0); else install torch from NVIDIA's index for this JetPack"
        )
    has_gpu = torch.cuda.is_available()
    if needs_gpu and not has_gpu:
        return f"torch {torch.__version__} does not find the GPU: install the wheel for this JetPack"
    try:
        ones = torch.ones(64, 64, device="cuda" if has_gpu else "cpu", dtype=torch.bfloat16)
        is_right = (ones @ ones).float().sum().item() == 64.0**3
    except RuntimeError as error:
        return _explained(error)
    if not is_right:
        return f"torch {torch.__version__} computes wrongly on {ones.device.type}: install another version"
    return None


def _explained(error: RuntimeError) -> str:
    import torch

    reason = str(error).splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError) or "NvMap" in reason or "NVML" in reason:
        return (
            f"the GPU has no free memory to try torch with ({reason}): end what uses it, or restart the board"
        )
    return (
        f"torch {torch.__version__}, built for {', '.join(torch.cuda.get_arch_list())}, does not compute on "
        f"this GPU ({reason}): install the wheel for this JetPack"
    )


def main() -> int:
    """Runs the script."""
    if said := fault(needs_gpu="--gpu" in sys.argv[1:]):
        sys.stdout.write(f"{said}\n")
        return 1
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    sys.stdout.write(f"torch {torch.__version__} computes on {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
