"""Checkpoints from and to other formats: safetensors, torch's state dicts, DCP folders.

`files` reads them, `dcp` what torch.distributed.checkpoint wrote, `importing` makes a checkpoint
of what was read, `exporting` a file of a checkpoint.
"""
