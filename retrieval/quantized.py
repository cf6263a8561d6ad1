"""An int8 export as TorchRec's quantized inference module, for those who serve the table itself.

Shape legend: B rows of a block, D width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.quant.embedding_modules import EmbeddingBagCollection

from skipwise.common.errors import UserError, brief
from skipwise.datapipes.batch import FEATURE
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.session_files import DAMAGED
from skipwise.models.table import TABLE
from skipwise.retrieval.encodings import SCALE_BIAS_BYTES, scale_bias
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.training.checkpoint.checkpoint_index import FileRecord, StorageError, check_file

_BLOCK_ROWS = 1 << 16


def quantized_table(export: Path) -> EmbeddingBagCollection:
    """The rows of an export made with `--dtype int8`, in Parquet or npy, on the CPU; filled block by block.

    A bag of one row is that row; float32 comes out. TorchRec keeps scale and bias in float16, so a row differs from
    the export's by up to 255 * scale / 2048 + |bias| / 2048. Raises `UserError` for another export or a damaged one.
    """
    manifest = ExportManifest.read(export)
    if manifest.dtype != "int8" or manifest.since:
        raise UserError(
            f"{export / MANIFEST} is of {'a delta' if manifest.since else manifest.dtype}, not of a whole table in "
            "int8: export with --dtype int8 and without --only-new-since"
        )
    config = EmbeddingBagConfig(
        name=TABLE,
        embedding_dim=manifest.dim,
        num_embeddings=manifest.rows,
        feature_names=[FEATURE],
        data_type=DataType.INT8,
        pooling=PoolingType.SUM,
    )
    module = EmbeddingBagCollection(
        [config], is_weighted=False, device=torch.device("cpu"), quant_state_dict_split_scale_bias=True
    )
    bags = module.embedding_bags[TABLE]
    for part in manifest.parts:
        file, row = export / part["file"], part["first_row"]
        try:
            check_file(export, FileRecord(part["file"], part["bytes"], part["sha256"]))
            for codes_BD, scale_bias_B2 in _blocks(file, manifest):
                place = slice(row, row + len(codes_BD))
                halves_B2 = scale_bias_B2.half()
                if not halves_B2.isfinite().all():
                    raise UserError(f"{file} has a scale or a bias beyond float16: serve the export's own rows instead")
                bags.weight[place] = codes_BD
                bags.weight_qscale[place] = halves_B2[:, :1]
                bags.weight_qbias[place] = halves_B2[:, 1:]
                row += len(codes_BD)
        except (StorageError, RuntimeError, *DAMAGED) as error:
            raise UserError(f"{file} is not what export wrote ({brief(error)}): export again") from error
        if row != part["first_row"] + part["rows"]:
            raise UserError(f"{file} has not the {part['rows']} rows that {MANIFEST} says: export again")
    return module


def _blocks(file: Path, manifest: ExportManifest) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 [B, D] and float32 [B, 2] of a part."""
    if manifest.format == "npy":
        fused = np.load(file, mmap_mode="r")
        for first in range(0, len(fused), _BLOCK_ROWS):
            block = np.array(fused[first : first + _BLOCK_ROWS])
            yield torch.from_numpy(block[:, :-SCALE_BIAS_BYTES]), torch.from_numpy(scale_bias(block))
        return
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_BLOCK_ROWS, columns=["embedding", "scale", "bias"], use_threads=False):
            codes = batch["embedding"].flatten().to_numpy().reshape(-1, manifest.dim)
            both = np.stack([batch["scale"].to_numpy(), batch["bias"].to_numpy()], axis=1)
            yield torch.from_numpy(codes.copy()), torch.from_numpy(both)
