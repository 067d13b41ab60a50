"""Writes a GGUF file anew with its matrices in another number format: the same weights for the peers that read GGUF."""

import sys
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize


def convert(source: Path, target: Path, kind: str) -> None:
    """Converts to kind, one of BF16, F16, Q8_0; vectors stay in 32 bits."""
    quantization = GGMLQuantizationType[kind]
    reader = GGUFReader(source)
    scratch = target.with_suffix(".partial")
    writer = GGUFWriter(scratch, reader.fields[gguf.Keys.General.ARCHITECTURE].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE):
            inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind}"])
    for tensor in reader.tensors:
        full = dequantize(tensor.data, tensor.tensor_type)
        wanted = quantization if full.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(full, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    scratch.replace(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
