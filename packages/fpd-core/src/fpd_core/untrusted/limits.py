"""How much of a file from outside fpd reads. Every message about a limit names it; `SECURITY.md` lists them."""

MIB = 2**20

JSON_BYTES = 16 * MIB
JSON_DEPTH = 64  # nested lists and objects
CARD_BYTES = MIB  # a model card

IMAGE_BYTES = 256 * MIB  # as stored
IMAGE_PIXELS = 64 * MIB  # 8192 x 8192; a batch of images may have four times as many
IMAGE_ASPECT = 100  # longer side by the shorter: resizing the shorter one must not blow up the longer

ARRAY_BYTES = 1024 * MIB  # one array that is read whole, of an .npz file
ARRAYS_PER_FILE = 64

ARCHIVE_BYTES = 2 * 1024 * MIB  # a gzipped file after decompression or a parquet file, held in memory
CAPTION_BYTES = 2**16  # one line of a captions file, one caption in a shard
