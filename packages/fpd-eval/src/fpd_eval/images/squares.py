"""The central square of a picture."""

from PIL import Image


def centre_square(image: Image.Image) -> Image.Image:
    """The central square of the shorter side; of an odd rest the larger half is cut at the right and the bottom."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))
