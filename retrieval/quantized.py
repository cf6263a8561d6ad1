"""An int8 export as TorchRec's quantized inference module, for those who serve the table itself.

Shape legend: B rows of a block, W numbers of an encoded row.
"""

from pathlib import Path

import numpy as np
import torch
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.quant.embedding_modules import EmbeddingBagCollection

from skipwise.common.errors import UserError, brief
from skipwise.common.mirrors import local
from skipwise.datapipes.batch import FEATURE
from skipwise.datapipes.manifest import MANIFEST
from skipwise.datapipes.session_files import DAMAGED
from skipwise.models.table import TABLE
from skipwise.retrieval.export_manifest import ExportManifest
from skipwise.retrieval.formats import SCALE_BIAS_BYTES, scale_bias
from skipwise.retrieval.open_export import check_file, part_pieces

_BLOCK_ROWS = 1 << 16


def quantized_table(export: Path) -> EmbeddingBagCollection:
    """The rows of an export made with `--dtype int8`, in Parquet or npy, on the CPU; filled block by block.

    A bag of one row is that row; float32 comes out. TorchRec keeps scale and bias in float16, so a row differs from
    the export's by up to 255 * scale / 2048 + |bias| / 2048. Raises `UserError` for another export or a damaged one.
    """
    export = local(export)
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
        check_file(export, part)
        file = export / part.file
        try:
            for piece in part_pieces(export, manifest, part):
                for start in range(0, len(piece.encoded), _BLOCK_ROWS):
                    block_BW = np.array(piece.encoded[start : start + _BLOCK_ROWS])
                    halves_B2 = torch.from_numpy(scale_bias(block_BW)).half()
                    if not halves_B2.isfinite().all():
                        raise UserError(
                            f"{file} has a scale or a bias beyond float16: serve the export's own rows instead"
                        )
                    place = slice(piece.first + start, piece.first + start + len(block_BW))
                    bags.weight[place] = torch.from_numpy(block_BW[:, :-SCALE_BIAS_BYTES])
                    bags.weight_qscale[place] = halves_B2[:, :1]
                    bags.weight_qbias[place] = halves_B2[:, 1:]
        except (RuntimeError, *DAMAGED) as error:
            raise UserError(f"{file} is not what export wrote ({brief(error)}): export again") from error
    return module
