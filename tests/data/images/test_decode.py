"""Images of every mode and orientation decode upright, opaque, antialiased and at one size; errors say why."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxrep.data.images.crop import Box, HostCrop, HostRandomResizedCrop, HostResize
from jaxrep.data.images.decode import (
    FORMATS,
    MAX_PIXELS,
    decode_image,
    decode_label_map,
    fit_image,
    open_image,
    upright,
    upright_size,
)
from jaxrep.data.images.jpeg import plain_size
from jaxrep.spec import spec
from tests.helpers import photos

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _bytes(picture, kind="PNG", **options):
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def _bands(height, width):
    """Return red, green and blue bands, each a third of the width."""
    return np.repeat(np.array([[RED, GREEN, BLUE]], np.uint8).repeat(width // 3, axis=1), height, axis=0)


def test_center_crop_and_resize():
    wide = _bytes(_bands(40, 120))
    cropped, squashed = decode_image(wide, 20, 20), decode_image(wide, 24, 24, HostResize())
    assert cropped.shape == (20, 20, 3) and cropped.dtype == np.uint8
    np.testing.assert_array_equal(cropped[:, 2:-2], np.broadcast_to(GREEN, (20, 16, 3)))  # edges see their neighbors
    inside = squashed[:, [3, 12, 20]]  # away from the edges of the bands, over which the resizing blurs
    np.testing.assert_array_equal(inside, np.broadcast_to([RED, GREEN, BLUE], (24, 3, 3)))


def test_nonsquare_size():
    found = decode_image(_bytes(_bands(30, 30)), 12, 4)
    assert found.shape == (12, 4, 3)
    np.testing.assert_array_equal(found[:, 1:3], np.broadcast_to(GREEN, (12, 2, 3)))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.transpose(1, 0, 2)),
        (6, lambda x: x[::-1].transpose(1, 0, 2)),  # a quarter turn clockwise
        (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda x: x[:, ::-1].transpose(1, 0, 2)),
    ],
)
def test_exif_orientation(orientation, turned):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode_image(_bytes(pixels, exif=exif), 9, 9), turned(pixels))


def test_transparent_pixels_become_white():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[:2, :, 3], pixels[2, :, 3] = 200, 255, 51  # red: opaque, a fifth, not at all
    expected = np.full((4, 4, 3), 255)
    expected[:2], expected[2] = (200, 0, 0), (244, 204, 204)  # 0.2 * 200 + 0.8 * 255, 0.8 * 255
    for kind in ("PNG", "WEBP"):
        content = _bytes(pixels, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        np.testing.assert_allclose(decode_image(content, 4, 4), expected, atol=1)  # rounding of the composition


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (Image.new("L", (8, 8), 90), "PNG", (90, 90, 90)),
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)), "PNG", (90, 90, 90)),
        (Image.new("LA", (8, 8), (90, 255)), "PNG", (90, 90, 90)),
        (Image.new("RGB", (8, 8), RED).quantize(2), "PNG", RED),
        (Image.new("RGB", (8, 8), BLUE), "GIF", BLUE),
        (Image.new("RGB", (8, 8), GREEN), "WEBP", GREEN),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", RED),
    ],
)
def test_every_mode_becomes_rgb(picture, kind, expected):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode_image(_bytes(picture, kind, **options), 8, 8)
    # JPEG is lossy, by a level or two in a plain picture
    np.testing.assert_allclose(found, np.broadcast_to(expected, (8, 8, 3)), atol=2 if kind == "JPEG" else 0)


def test_resizing_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2 * 255  # any single pixel is black or white, their mean is grey
    found = decode_image(_bytes(checks.astype(np.uint8)), 8, 8)
    np.testing.assert_allclose(found, 127.5, atol=1.5)


@spec
class Fixed(HostCrop):
    """Return a given box."""

    at: tuple[int, int, int, int]

    def box(self, width, height, shape, key):
        return Box(*self.at)


@pytest.mark.parametrize(("width", "height", "least"), [(400, 300, 0.08), (640, 480, 0.9), (1600, 1200, 0.5)])
def test_reduced_decode_matches_full_decode_and_antialiased_resize(width, height, least):
    crop = HostRandomResizedCrop(scale=(least, 1.0))
    differences = []
    for key, content in enumerate(photos.jpegs(10, width, height)):
        box = crop.box(width, height, 1.0, key)
        covers = min(box.right - box.left, box.bottom - box.top) / 224
        grid = next((n for n in (8, 4, 2) if covers >= n), 1)  # edges of the box lie on whole decoded pixels
        box = [min(grid * round(edge / grid), most) for edge, most in zip(box, (width, height) * 2, strict=True)]
        expected = Image.open(io.BytesIO(content)).resize((224, 224), Image.Resampling.BICUBIC, box=box)
        differences.append(
            np.abs(decode_image(content, 224, 224, crop, key).astype(float) - np.asarray(expected)).mean()
        )
    assert np.mean(differences) <= 2 and max(differences) <= 3  # levels of 255: hardly to be seen


@pytest.mark.parametrize("orientation", range(1, 9))
def test_box_of_a_rotated_jpeg(orientation):
    (pixels,) = photos.images(1, 160, 120)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _bytes(pixels, "JPEG", quality=95, exif=exif)
    box = (8, 24, 104, 88)
    upright = Image.open(io.BytesIO(content))
    upright.load()
    expected = fit_image(upright, 32, 48, Fixed(at=box))
    found = decode_image(content, 32, 48, Fixed(at=box))  # decoded at half the size
    assert np.abs(found.astype(float) - expected).mean() <= 2  # two ways to shrink a smooth picture by two


def test_cmyk_jpeg_matches_pillow():
    content = _bytes(next(photos.images(1, 40, 40)).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_array_equal(
        decode_image(content, 40, 40), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    )


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), color) for color in (BLUE, RED)]
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True})):
        content = _bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode_image(content, 8, 8), np.broadcast_to(BLUE, (8, 8, 3)))


@pytest.mark.parametrize(("height", "width"), [(1, 300), (300, 1), (1, 1), (9, 500)])
def test_thin_images_are_resized(height, width):
    content = _bytes(np.full((height, width, 3), 90, np.uint8), "JPEG", quality=95)
    for crop in (HostResize(), HostRandomResizedCrop(scale=(0.08, 1.0))):
        np.testing.assert_allclose(decode_image(content, 16, 16, crop, key=1), 90, atol=1)  # JPEG's rounding


def _flipped(content, byte, bit):
    return content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :]


PHOTO = next(photos.images(1, 60, 60))
JPEG = _bytes(PHOTO, "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the image is empty"),
        (b"no picture at all", "cannot be decoded .unknown format"),
        (JPEG[:-200], "cannot be decoded .ValueError: Premature end of JPEG file"),
        (JPEG[:-2], "cannot be decoded .ValueError: Premature end of JPEG file"),
        (_bytes(_bands(60, 60))[:60], "cannot be decoded"),
        (_bytes(PHOTO, "WEBP")[:-200], "cannot be decoded"),
        (_bytes(PHOTO, "GIF")[:-900], "cannot be decoded"),
    ],
)
def test_unreadable_image_errors(content, reason):
    with pytest.raises(ValueError, match=reason):
        decode_image(content, 8, 8)


def test_flipped_bits_decode_or_raise_value_error():
    rng, reasons = np.random.default_rng(0), []
    for byte, bit in zip(rng.integers(0, len(JPEG), 300), rng.integers(0, 8, 300), strict=True):
        try:
            assert decode_image(_flipped(JPEG, byte, bit), 16, 16).shape == (16, 16, 3)
        except ValueError as error:
            reasons.append(str(error))
    assert any("Corrupt JPEG data" in reason for reason in reasons), reasons  # Pillow decodes these without an error


def _png_header(height, width):
    """Return a PNG whose header has this size, without pixels."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def test_too_many_pixels_are_an_error_before_decoding():
    jpeg = bytearray(_bytes(_bands(60, 60), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5  # height and width in the frame's header
    jpeg[at : at + 4] = struct.pack(">HH", 20_000, 20_000)
    for content in (bytes(jpeg), _png_header(20_000, 20_000)):
        with pytest.raises(
            ValueError, match=r"not decoded, for its size: .*400000000 pix|has 20,000 x 20,000 pixels, mo"
        ):
            decode_image(content, 8, 8)
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(ValueError, match=rf"the image has 8,192 x 8,193 pixels, more than the {MAX_PIXELS:,}"):
        decode_image(_png_header(side + 1, side), 8, 8)


def test_too_many_bytes_are_an_error(monkeypatch):
    monkeypatch.setattr("jaxrep.data.images.decode.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the image's file has [\d,]+ bytes, more than the 1,000 that are decoded"):
        decode_image(JPEG, 8, 8)


def test_jpeg_with_and_without_exif_are_equal():
    """Check that JPEGs without EXIF, which skip Pillow, decode equally; Pillow refuses truncated headers."""
    for mode in ("RGB", "L"):
        picture, exif = next(photos.images(1, 90, 70)).convert(mode), Image.Exif()
        exif[0x0112] = 1
        plain, tagged = _bytes(picture, "JPEG"), _bytes(picture, "JPEG", exif=exif)
        assert plain_size(plain) == (90, 70) and plain_size(tagged) is None
        for key in (None, 1, 2):
            crop = HostRandomResizedCrop(scale=(0.3, 1))
            np.testing.assert_array_equal(
                decode_image(plain, 32, 24, crop, key), decode_image(tagged, 32, 24, crop, key)
            )
        for end in range(2, plain.index(b"\xff\xda") + 20, 7):
            with pytest.raises(ValueError, match=r"^the image cannot be decoded \("):
                decode_image(plain[:end], 8, 8)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (64, 64), (40, 30), (90, 50)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decode_into_a_row_of_a_batch(kind, width, height):
    (picture,) = photos.images(1, width, height)
    content, rows = _bytes(picture, kind), np.zeros((3, 64, 64, 3), np.uint8)
    crop = HostRandomResizedCrop(scale=(0.9, 1.0))
    assert decode_image(content, 64, 64, crop, 5, rows[1]) is not None and not rows[[0, 2]].any()
    np.testing.assert_array_equal(rows[1], decode_image(content, 64, 64, crop, 5))


# What surrounds the pixels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [HostResize(), Fixed(at=(4, 8, 40, 32))])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100})],
)
def test_every_format_is_turned_once(kind, options, orientation, crop):
    (picture,) = photos.images(1, 64, 48)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode_image(_bytes(picture, exif=exif), 24, 24, crop)  # a PNG, turned here
    actual = decode_image(_bytes(picture, kind, exif=exif, **options), 24, 24, crop)
    # AVIF is lossy. Turning before or after shrinking rounds differently, by a level.
    assert np.abs(actual.astype(int) - expected).mean() <= (3 if kind == "AVIF" else 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_maps_and_sizes_are_turned_like_images(orientation):
    classes = np.arange(48, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    contents = [_bytes(classes, kind, exif=exif) for kind in ("PNG", "TIFF")]
    expected = np.asarray(upright(Image.open(io.BytesIO(contents[0]))))
    for content in contents:
        size = open_image(content, upright_size)
        assert size == expected.shape[::-1]
        np.testing.assert_array_equal(decode_label_map(content, size[1], size[0], HostResize()), expected)


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


LARGE = zlib.compress(bytes(3 << 20))
METADATA = {
    "a large compressed text": _chunk(b"zTXt", b"Comment\0\0" + LARGE),
    "a large international text": _chunk(b"iTXt", b"Comment\0\1\0\0\0" + LARGE),
    "a large color profile": _chunk(b"iCCP", b"profile\0\0" + LARGE),
    "a color profile of an unknown compression": _chunk(b"iCCP", b"profile\0\7" + LARGE),
    "a text of an unknown compression": _chunk(b"zTXt", b"Comment\0\7" + LARGE),
    "a wrong checksum of a text": _chunk(b"tEXt", b"Comment\0hello")[:-4] + b"\0\0\0\0",
    "broken EXIF": _chunk(b"eXIf", b"Exif\0\0no EXIF"),
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_metadata_never_cost_pixels_of_a_png(name, mode):
    picture = next(photos.images(1, 40, 30)).convert(mode)
    content = _bytes(picture, transparency=3) if mode == "P" else _bytes(picture)
    header = content.index(b"IHDR") + 4 + 13 + 4
    changed = content[:header] + METADATA[name] + content[header:]
    np.testing.assert_array_equal(decode_image(changed, 20, 20), decode_image(content, 20, 20))
    after = content.index(b"IEND") - 4
    changed = content[:after] + METADATA[name] + content[after:]
    np.testing.assert_array_equal(decode_image(changed, 20, 20), decode_image(content, 20, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF"])
@pytest.mark.parametrize(
    "metadata",
    [{"exif": b"Exif\0\0II*\0\xff\xff\xff\xff"}, {"exif": b"Exif\0\0no EXIF"}, {"icc_profile": b"no profile"}],
)
def test_broken_metadata_never_cost_pixels(kind, metadata):
    if kind == "TIFF" and "exif" in metadata:
        pytest.skip("the EXIF of a TIFF is its header")
    picture = next(photos.images(1, 40, 30))
    content, plain = _bytes(picture, kind, **metadata), _bytes(picture, kind)
    np.testing.assert_array_equal(decode_image(content, 20, 20), decode_image(plain, 20, 20))


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n%%EOF\n"


@pytest.mark.parametrize("decode", [decode_image, decode_label_map])
@pytest.mark.parametrize("content", [POSTSCRIPT, b"%PDF-1.4\n%%EOF\n", b"GRIB" + bytes(99), b"BUFR" + bytes(99)])
def test_formats_that_start_programs_are_not_opened(content, decode, monkeypatch):
    for name in ("Popen", "run", "check_call"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *args, **options: pytest.fail(f"starts {args}"))
    with pytest.raises(ValueError, match=r"the image cannot be decoded \(unknown format; known are AVIF, BMP, GIF,"):
        decode(content, 9, 9)


def test_known_formats_are_decoded():
    for kind in FORMATS:
        picture = Image.new("RGB", (16, 16), (200, 30, 40))
        options = {"quality": 95} if kind in ("JPEG", "MPO", "AVIF", "WEBP") else {}
        found = decode_image(_bytes(picture, kind, **options), 16, 16)
        np.testing.assert_allclose(found.mean((0, 1)), (200, 30, 40), atol=4)  # some are lossy
