"""What is checked before a model or its loaders are built."""

from skipwise.common.distributed import device, gather_objects, logger, world_size
from skipwise.common.errors import UserError
from skipwise.common.node_disks import num_machines, on_one_machine
from skipwise.datapipes.sessions import SessionStore
from skipwise.datapipes.signals import SKIPS
from skipwise.training.config import RunConfig


def check(config: RunConfig, store: SessionStore) -> None:
    """Raises `UserError` for a config that cannot work with this device, this dataset or this number of ranks."""
    check_device(config)
    config.data.check_world_size(world_size())
    try:
        config.row_table.blocks(world_size(), num_machines())
    except ValueError as error:
        raise UserError(str(error)) from error
    hashes = [store.manifest.data_hash] if on_one_machine() else gather_objects(store.manifest.data_hash)
    if len({*hashes}) > 1:
        raise UserError(
            f"{store.path} is not the same dataset on every machine: copy one to all, or name a folder that they share"
        )


def check_device(config: RunConfig) -> None:
    """Raises `UserError` where the device lacks the table's optimizer or compiled kernels."""
    try:
        config.check_device(device().type)
    except ValueError as error:
        raise UserError(str(error)) from error


def warn_without_skips(config: RunConfig, store: SessionStore) -> None:
    """Says so where the config learns from skips and the data have none, or nothing else."""
    share, known = store.manifest.skip_share, round(1 - store.manifest.unknown_share, 6)
    if (share == 0 or share >= known) and (config.loss.keep or SKIPS in config.data.inputs):
        logger.warning(
            f"{store.path} has {'only' if share else 'no'} skipped plays, so nothing can be learned from skips: train "
            "best-skip-blind, or prepare the log again with its skips"
        )
