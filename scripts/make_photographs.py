#!/usr/bin/env python3
"""Draws the small pictures of tests/fixtures/photographs: what cameras, scanners, phones and older
programs write, one odd thing in each. cases.json says of each what it is and what becomes of it;
references are what Pillow makes of it: exif_transpose, convert("RGB").

Needs Pillow 12 or later with pillow-heif, and imagecodecs.
"""

import io
import json
import pathlib
import struct
import sys
import zlib

from PIL import Image, ImageDraw, ImageOps

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "photographs"
WIDTH, HEIGHT = 40, 28


def picture(width=WIDTH, height=HEIGHT):
    """Nothing in it is symmetric, and no channel is another."""
    drawn = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(drawn)
    for y in range(height):
        draw.line((0, y, width, y), fill=(40 + 6 * y, 220 - 5 * y, 60 + 3 * y))
    draw.ellipse((2, 2, width // 2, height // 2), fill=(250, 230, 20))
    draw.rectangle((width * 5 // 8, height // 2, width - 3, height - 3), fill=(20, 40, 200))
    draw.line((4, height - 4, width - 6, 5), fill=(220, 20, 30), width=3)
    return drawn


P = picture()
GREY = P.convert("L")


def save(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


# --- orientation, as programs write it


def tiff_exif(value, order="<", kind=3, magic=None, number=None):
    """EXIF with one entry."""
    head = b"II" if order == "<" else b"MM"
    magic = struct.pack(order + "H", 42) if magic is None else magic
    field = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I", 9: "i"}[kind], value)
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + (field if number is None else number)
    return head + magic + struct.pack(order + "IH", 8, 1) + entry + b"\0\0\0\0"


def xmp(value, element=False):
    inner = (
        f"><tiff:Orientation>{value}</tiff:Orientation></rdf:Description>"
        if element
        else f' tiff:Orientation="{value}"/>'
    )
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
        '"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff='
        f'"http://ns.adobe.com/tiff/1.0/"{inner}</rdf:RDF></x:xmpmeta>'
    ).encode()


# --- JPEG


def segments(data):
    """[(marker, body)] up to the first scan, and what follows."""
    found, at = [], 2
    while True:
        marker, length = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])[0]
        found.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + length
        if marker == 0xDA:
            return found, data[at:]


def joined(found, coded):
    whole = b"".join(
        bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in found
    )
    return b"\xff\xd8" + whole + coded


def with_segments(data, *more, at=1):
    found, coded = segments(data)
    return joined(found[:at] + list(more) + found[at:], coded)


def edited(data, marker, change):
    found, coded = segments(data)
    return joined([(m, change(b) if m == marker else b) for m, b in found], coded)


def icc(number, count, size=40):
    return (0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + b"\0" * size)


def jpegs():
    plain = save(P, "JPEG", quality=90)
    progressive = save(P, "JPEG", quality=90, progressive=True)
    restarts = save(P, "JPEG", quality=90, restart_marker_blocks=2)
    grey = save(GREY, "JPEG", quality=90)
    cmyk = save(P.convert("CMYK"), "JPEG", quality=90)
    fine = save(P, "JPEG", quality=90, subsampling=0)
    end = plain[:-2]
    yield "jpeg-420", "baseline, 4:2:0", plain, {}
    yield "jpeg-444", "baseline, 4:4:4", fine, {}
    yield "jpeg-422", "baseline, 4:2:2", save(P, "JPEG", quality=90, subsampling=1), {}
    yield "jpeg-progressive", "progressive", progressive, {}
    yield "jpeg-restarts", "with restart markers", restarts, {}
    yield "jpeg-grey", "grey", grey, {}
    yield "jpeg-cmyk", "CMYK, Adobe", cmyk, {}
    no_mark = joined([s for s in segments(cmyk)[0] if s[0] != 0xEE], segments(cmyk)[1])
    yield "jpeg-cmyk-unmarked", "CMYK without Adobe's segment", no_mark, {}
    rgb = save(P, "JPEG", quality=90, keep_rgb=True)
    yield "jpeg-rgb", "RGB, not YCbCr", rgb, {}
    for name, what, parts in [
        ("missing", "a profile of which a part is missing", [icc(1, 3), icc(3, 3)]),
        ("zero", "a profile whose parts count from 0", [icc(0, 1)]),
        ("twice", "a profile with a part twice", [icc(1, 2), icc(1, 2)]),
        ("beyond", "a profile with more parts than it says", [icc(1, 1), icc(2, 1)]),
        ("empty", "an empty profile", [icc(1, 1, 0)]),
    ]:
        yield f"jpeg-icc-{name}", what, with_segments(plain, *parts), {}
    odd_icc = with_segments(progressive, icc(0, 1))
    yield "jpeg-progressive-icc", "progressive, a profile that is wrong", odd_icc, {}
    version = edited(plain, 0xE0, lambda b: b[:5] + b"\x07" + b[6:])
    yield "jpeg-jfif-7", "JFIF of an unknown version", version, {}
    adobe = (0xEE, b"Adobe\0\x64\0\0\0\0\x07")
    unknown = joined([adobe] + segments(plain)[0][1:], segments(plain)[1])
    yield "jpeg-adobe-7", "Adobe's segment with an unknown transform", unknown, {}
    comments = with_segments(plain, (0xFE, b"scanned"), (0xE5, b"maker\xff\xd8\xff"))
    yield "jpeg-comments", "comments and unknown application segments", comments, {}
    found, coded = segments(plain)
    junk = joined(found[:2], b"\0\0junk") + joined(found[2:], coded)[2:]
    yield "jpeg-junk-between", "bytes between segments", junk, {}
    fill = joined(found[:2], b"\xff\xff\xff\xff") + joined(found[2:], coded)[2:]
    yield "jpeg-fill", "fill bytes before a marker", fill, {}
    yield "jpeg-padding", "zeros before the end", end + b"\0\0\0\0" + b"\xff\xd9", {}
    ones = end + b"\xff\xff\xff" + b"\xff\xd9"
    yield "jpeg-padding-ones", "fill bytes before the end", ones, {}
    pad = progressive[:-2] + b"\0\0\0" + b"\xff\xd9"
    yield "jpeg-progressive-padding", "progressive, zeros before the end", pad, {}
    whole = {"reference": plain}
    yield "jpeg-no-end", "no end marker", end, whole
    yield "jpeg-half-end", "half an end marker", end + b"\xff", whole
    yield "jpeg-zeros-no-end", "zeros behind it and no end marker", end + bytes(64), whole
    same = {"reference": progressive}
    yield "jpeg-progressive-no-end", "progressive, no end marker", progressive[:-2], same
    same = {"reference": cmyk}
    yield "jpeg-cmyk-no-end", "CMYK, no end marker", cmyk[:-2], same
    same = {"reference": restarts}
    yield "jpeg-restarts-no-end", "restart markers, no end marker", restarts[:-2], same
    same = {"reference": plain}
    both = with_segments(end, icc(0, 1))
    yield "jpeg-icc-no-end", "a wrong profile and no end marker", both, same
    camera = edited(plain, 0xDA, lambda b: b[:-3] + b"\0\0\0")
    yield "jpeg-selection", "a wrong spectral selection, as some cameras write it", camera, {}
    video = plain + b"\0\0\0\x18ftypmp42" + bytes(200)
    yield "jpeg-video-behind", "a video behind it (motion photo)", video, {}
    mpo = save(P, "MPO", quality=90, save_all=True, append_images=[picture().rotate(180)])
    yield "mpo", "several pictures (MPO): the first", mpo, {}
    turned = with_segments(plain, (0xE1, b"Exif\0\0" + tiff_exif(6)))
    yield "jpeg-exif-6", "EXIF orientation", turned, {}
    for name, what, exif in [
        ("long", "EXIF orientation as a LONG", tiff_exif(6, kind=4)),
        ("long-mm", "the same, big-endian", tiff_exif(6, ">", kind=4)),
        ("mm", "EXIF orientation, big-endian", tiff_exif(6, ">")),
        ("magic", "EXIF with its number in the other order", tiff_exif(6, ">", magic=b"*\0")),
        ("byte", "EXIF orientation as a BYTE", tiff_exif(6, kind=1)),
    ]:
        turned = {"reference_upright": 6}
        data = with_segments(plain, (0xE1, b"Exif\0\0" + exif))
        yield f"jpeg-exif-{name}", what, data, turned
    packet = with_segments(plain, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6)))
    yield "jpeg-xmp-6", "XMP orientation", packet, {}
    element = with_segments(plain, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6, True)))
    yield "jpeg-xmp-element-6", "XMP orientation as an element", element, {}
    cut = plain[: len(plain) - (len(segments(plain)[1])) // 2]
    yield "jpeg-cut", "cut in the middle of its data", cut, {"damaged": True}
    cut = progressive[: len(progressive) * 2 // 3]
    yield "jpeg-progressive-cut", "progressive, cut", cut, {"damaged": True}
    twelve = edited(plain, 0xC0, lambda b: b"\x0c" + b[1:])
    yield "jpeg-12", "12 bits a sample", twelve, {"unsupported": "samples of 12 bits"}


# --- PNG, WebP, GIF, BMP


def png(image=P, before=(), behind=(), **options):
    data = save(image, "PNG", **options)

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    before = b"".join(chunk(*c) for c in before)
    behind = b"".join(chunk(*c) for c in behind)
    return data[:33] + before + data[33:-12] + behind + data[-12:]


def raw_profile(body, name="exif"):
    digits = body.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\n{name}\n{len(body):8d}\n{lines}\n".encode()


def pngs():
    yield "png", "RGB", png(), {}
    yield "png-palette", "palette", png(P.quantize(32)), {}
    yield "png-palette-4", "palette of 4 bits", png(P.quantize(16), bits=4), {}
    alpha = P.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(P.size))
    yield "png-alpha", "RGB with alpha", png(alpha), {}
    yield "png-grey", "grey", png(GREY), {}
    yield "png-1", "1 bit", png(P.convert("1")), {}
    yield "png-grey-alpha", "grey with alpha", png(alpha.convert("LA")), {}
    clear = png(P.quantize(32), transparency=3)
    yield "png-palette-transparent", "palette with transparency", clear, {}
    wide = Image.new("I;16", P.size)
    wide.putdata([257 * v for v in GREY.tobytes()])
    yield "png-16", "16-bit grey", png(wide), {"reference": save(GREY, "PNG")}
    whole = png()
    yield "png-no-end", "no chunk that ends it", whole[:-12], {"reference": whole}
    yield "png-cut", "cut", whole[: len(whole) * 2 // 3], {"damaged": True}
    frames = [picture().rotate(180)]
    moving = save(P, "PNG", save_all=True, append_images=frames, duration=100)
    yield "apng", "animation (APNG): its picture", moving, {}
    yield "png-exif-6", "EXIF orientation", png(before=[(b"eXIf", tiff_exif(6))]), {}
    late = png(behind=[(b"eXIf", tiff_exif(6))])
    yield "png-exif-behind-6", "EXIF behind the picture", late, {}
    exif = b"Exif\0\0" + tiff_exif(6)
    packed = b"Raw profile type exif\0\0" + zlib.compress(raw_profile(exif))
    raw = png(before=[(b"zTXt", packed)])
    yield "png-raw-exif-6", "raw profile with EXIF (ImageMagick)", raw, {"reference_upright": 6}
    text = b"Raw profile type APP1\0" + raw_profile(exif, "APP1")
    raw = png(before=[(b"tEXt", text)])
    yield "png-raw-app1-6", "raw profile named APP1", raw, {"reference_upright": 6}
    packet = png(before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))])
    yield "png-xmp-6", "XMP orientation", packet, {}


def webp(exif=None, packet=None, **options):
    data = save(P, "WEBP", exif=tiff_exif(1), xmp=xmp(1), **options)
    at, out = 12, b""
    while at + 8 <= len(data):
        kind, length = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        body = data[at + 8 : at + 8 + length]
        body = exif if kind == b"EXIF" and exif is not None else body
        body = packet if kind == b"XMP " and packet is not None else body
        out += kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) & 1)
        at += 8 + length + (length & 1)
    return b"RIFF" + struct.pack("<I", len(out) + 4) + b"WEBP" + out


def webps():
    near = {"mean": 1.5}
    yield "webp-lossy", "lossy", save(P, "WEBP", quality=90), near
    yield "webp-lossless", "lossless", save(P, "WEBP", lossless=True), {}
    alpha = P.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(P.size))
    clear = save(alpha, "WEBP", lossless=True, exact=True)
    yield "webp-alpha", "lossless with alpha", clear, {}
    frames = [picture().rotate(180)]
    moving = save(P, "WEBP", save_all=True, append_images=frames, duration=100, lossless=True)
    yield "webp-animated", "animation: the first frame", moving, {}
    exact = {"lossless": True}
    yield "webp-exif-6", "EXIF orientation", webp(tiff_exif(6), b"", **exact), {}
    prefixed = webp(b"Exif\0\0" + tiff_exif(6), b"", **exact)
    yield "webp-exif-prefix-6", "EXIF with JPEG's prefix", prefixed, {"reference_upright": 6}
    packet = webp(b"", xmp(6), **exact)
    yield "webp-xmp-6", "XMP orientation", packet, {"reference_upright": 6}


def bitmap(bits, rows, header=40, compression=0, masks=b"", height=HEIGHT, palette=b""):
    offset = 14 + header + len(masks) + len(palette)
    info = struct.pack("<IiiHHIIiiII", header, WIDTH, height, 1, bits, compression, len(rows),
                       2835, 2835, len(palette) // 4, 0)
    info = info + bytes(header - 40) if header > 40 else info
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + info + masks \
        + palette + rows


def others():
    yield "gif", "GIF", "palette", save(P.quantize(32), "GIF"), {}
    frames = [picture().rotate(180).quantize(32)]
    moving = save(P.quantize(32), "GIF", save_all=True, append_images=frames, duration=90)
    yield "gif-animated", "GIF", "animation: the first frame", moving, {}
    laced = save(P.quantize(32), "GIF", interlace=True)
    yield "gif-interlaced", "GIF", "interlaced", laced, {}
    clear = save(P.quantize(32), "GIF", transparency=3)
    yield "gif-transparent", "GIF", "with transparency", clear, {}
    part = bytearray(save(P.quantize(32), "GIF"))
    part[6:10] = struct.pack("<HH", WIDTH + 9, HEIGHT + 6)
    yield "gif-part", "GIF", "a frame that covers a part of the screen", bytes(part), {}
    yield "bmp", "BMP", "24 bits", save(P, "BMP"), {}
    yield "bmp-palette", "BMP", "palette of 8 bits", save(P.quantize(32), "BMP"), {}
    yield "bmp-1", "BMP", "1 bit", save(P.convert("1"), "BMP"), {}
    flipped = P.tobytes("raw", "BGR")
    yield "bmp-down", "BMP", "from the top down", bitmap(24, flipped, height=-HEIGHT), {}
    thirty_two = P.tobytes("raw", "BGRX", 0, -1)
    yield "bmp-32", "BMP", "32 bits", bitmap(32, thirty_two), {}
    pixels = list(zip(*[iter(P.tobytes())] * 3, strict=True))
    rows = [pixels[y * WIDTH : (y + 1) * WIDTH] for y in reversed(range(HEIGHT))]
    five = b"".join(
        struct.pack("<H", r >> 3 << 10 | g >> 3 << 5 | b >> 3) for row in rows for r, g, b in row
    )
    yield "bmp-555", "BMP", "16 bits, 5 a colour", bitmap(16, five), {"mean": 4}
    six = b"".join(
        struct.pack("<H", r >> 3 << 11 | g >> 2 << 5 | b >> 3) for row in rows for r, g, b in row
    )
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    fields = bitmap(16, six, compression=3, masks=masks)
    yield "bmp-565", "BMP", "16 bits, 5, 6 and 5", fields, {"mean": 4}
    fields = save(P, "ICO", sizes=[(WIDTH, HEIGHT)])
    yield "ico", "ICO", "", fields, {"unknown": "Ico"}


# --- TIFF


def tiff(entries, data, order="<", big=False):
    """`entries`: (tag, type, values); where the data begins is added to offsets."""
    kinds = {1: "B", 3: "H", 4: "I", 5: "II", 16: "Q"}
    head, place, wide = (16, 8, "Q") if big else (8, 4, "I")
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    start = head + len(data)
    start += start & 1
    behind = start + len(count) + (4 + 2 * place) * len(entries) + place
    directory, values = count, b""
    for tag, kind, numbers in sorted(entries):
        numbers = [n + head if tag in (273, 324) else n for n in numbers]
        packed = struct.pack(order + f"{kinds[kind] * (len(numbers) if kind != 5 else 1)}"
                             if kind != 5 else order + "I" * len(numbers), *numbers)
        number = len(numbers) // 2 if kind == 5 else len(numbers)
        directory += struct.pack(order + "HH" + wide, tag, kind, number)
        if len(packed) <= place:
            directory += packed.ljust(place, b"\0")
        else:
            directory += struct.pack(order + wide, behind + len(values))
            values += packed
    magic = struct.pack(order + "HHHQ", 43, 8, 0, start) if big \
        else struct.pack(order + "HI", 42, start)
    body = data + b"\0" * (len(data) & 1)
    return (b"II" if order == "<" else b"MM") + magic + body + directory + bytes(place) + values


def strip(photometric, bits, data, samples=1, compression=1, more=(), **options):
    entries = [
        (256, 3, [WIDTH]),
        (257, 3, [HEIGHT]),
        (258, 3, [bits] * samples),
        (259, 3, [compression]),
        (262, 3, [photometric]),
        (273, 4, [0]),
        (277, 3, [samples]),
        (278, 3, [HEIGHT]),
        (279, 4, [len(data)]),
    ]
    given = {tag for tag, _, _ in more}
    entries = [entry for entry in entries if entry[0] not in given]
    return tiff(entries + list(more), data, **options)


def packed_bits(image, bits):
    """Rows of grey, so many bits a pixel."""
    out = b""
    for y in range(HEIGHT):
        row = [image.getpixel((x, y)) >> (8 - bits) for x in range(WIDTH)]
        text = "".join(f"{v:0{bits}b}" for v in row)
        text += "0" * (-len(text) % 8)
        out += int(text, 2).to_bytes(len(text) // 8, "big")
    return out


def tiles(image, samples, side=16):
    """Tiles of an image in one plane, and where each of them begins."""
    data, offsets = b"", []
    for top in range(0, HEIGHT, side):
        for left in range(0, WIDTH, side):
            offsets.append(len(data))
            data += image.crop((left, top, left + side, top + side)).tobytes()
    return data, offsets, side * side * samples


def subsampled(image):
    """YCbCr in units of 2 x 2 pixels."""
    ycc, out = image.convert("YCbCr"), b""
    for y in range(0, HEIGHT, 2):
        for x in range(0, WIDTH, 2):
            four = [ycc.getpixel((x + dx, y + dy)) for dy in (0, 1) for dx in (0, 1)]
            out += bytes(p[0] for p in four)
            out += bytes(sum(p[i] for p in four) // 4 for i in (1, 2))
    return out


def tiffs():
    rgb, grey = P.tobytes(), GREY.tobytes()
    for name, options in [
        ("none", {}),
        ("lzw", {"compression": "tiff_lzw"}),
        ("deflate", {"compression": "tiff_adobe_deflate"}),
        ("packbits", {"compression": "packbits"}),
        ("jpeg", {"compression": "jpeg"}),
    ]:
        yield f"tiff-{name}", f"RGB, {name}", save(P, "TIFF", **options), {}
    for name in ["group3", "group4", "tiff_ccitt"]:
        data = save(P.convert("1"), "TIFF", compression=name)
        yield f"tiff-{name}", f"1 bit, {name}", data, {}
    two = save(P.convert("1"), "TIFF", compression="group3", tiffinfo={292: 1})
    yield "tiff-group3-2d", "1 bit, group 3, two-dimensional", two, {}
    aligned = save(P.convert("1"), "TIFF", compression="group3", tiffinfo={292: 4})
    yield "tiff-group3-aligned", "1 bit, group 3, ends of lines at bytes", aligned, {}
    yield "tiff-palette-8", "palette of 8 bits", save(P.quantize(64), "TIFF"), {}
    lzw = save(P.quantize(64), "TIFF", compression="tiff_lzw")
    yield "tiff-palette-lzw", "palette of 8 bits, LZW", lzw, {}
    for bits in (1, 2, 4):
        for photometric, name in [(0, "white is zero"), (1, "black is zero")]:
            data = strip(photometric, bits, packed_bits(GREY, bits))
            yield f"tiff-grey-{bits}-{photometric}", f"grey of {bits} bits, {name}", data, {}
        colours = 1 << bits
        table = [c for part in (3, 5, 7) for c in
                 ((i * 65_535 // (colours - 1) * part) % 65_536 for i in range(colours))]
        data = strip(3, bits, packed_bits(GREY, bits), more=[(320, 3, table)])
        yield f"tiff-palette-{bits}", f"palette of {bits} bits", data, {}
    reversed_ = bytes(int(f"{b:08b}"[::-1], 2) for b in packed_bits(GREY, 1))
    data = strip(1, 1, reversed_, more=[(266, 3, [2])])
    yield "tiff-fill-order", "1 bit, bits in the other order", data, {}
    yield "tiff-grey", "grey of 8 bits", save(GREY, "TIFF"), {}
    yield "tiff-white-is-zero", "grey of 8 bits, white is zero", strip(0, 8, grey), {}
    sixteen = b"".join(struct.pack("<H", 257 * v) for v in grey)
    is_grey = {"reference": save(GREY, "PNG")}
    yield "tiff-grey-16", "grey of 16 bits", strip(1, 16, sixteen), is_grey
    floats = save(GREY.convert("F"), "TIFF")
    yield "tiff-float", "grey of 32-bit floats, from 0 to 255", floats, {}
    whole = save(GREY.convert("I"), "TIFF")
    yield "tiff-int-32", "grey of 32-bit numbers, from 0 to 255", whole, {}
    ramp = GREY.convert("F").point(lambda v: v / 255 * 1.0)
    yield "tiff-float-01", "grey of floats from 0 to 1: black, as in Pillow", save(ramp, "TIFF"), {}
    wide = b"".join(struct.pack("<H", 256 * v + 9) for v in rgb)
    yield "tiff-rgb-16", "RGB of 16 bits", strip(2, 16, wide, 3), {}
    wide = b"".join(struct.pack(">H", 256 * v + 9) for v in rgb)
    yield "tiff-rgb-16-mm", "RGB of 16 bits, big-endian", strip(2, 16, wide, 3, order=">"), {}
    yield "tiff-mm", "RGB, big-endian", strip(2, 8, rgb, 3, order=">"), {}
    yield "tiff-big", "RGB, BigTIFF", strip(2, 8, rgb, 3, big=True), {}
    big = strip(2, 8, rgb, 3, order=">", big=True)
    same = {"reference": strip(2, 8, rgb, 3)}
    yield "tiff-big-mm", "RGB, BigTIFF, big-endian", big, same
    yield "tiff-cmyk", "CMYK", save(P.convert("CMYK"), "TIFF"), {}
    cmyk = save(P.convert("CMYK"), "TIFF", compression="jpeg")
    yield "tiff-cmyk-jpeg", "CMYK, JPEG", cmyk, {}
    yield "tiff-grey-jpeg", "grey, JPEG", save(GREY, "TIFF", compression="jpeg"), {}
    yield "tiff-lab", "CIE L*a*b*", save(P.convert("LAB"), "TIFF"), {"mean": 1.5}
    alpha = P.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(P.size))
    yield "tiff-alpha", "RGB with alpha", save(alpha, "TIFF"), {}
    shaded = bytes(
        v * px[3] // 255 if i < 3 else v
        for px in zip(*[iter(alpha.tobytes())] * 4, strict=True)
        for i, v in enumerate(px)
    )
    data = strip(2, 8, shaded, 4, more=[(338, 3, [1])])
    yield "tiff-associated-alpha", "RGB with premultiplied alpha", data, {}
    data = strip(2, 8, alpha.tobytes(), 4, more=[(338, 3, [0])])
    yield "tiff-extra", "RGB with a sample of no meaning", data, {}
    planes = b"".join(band.tobytes() for band in P.split())
    size = WIDTH * HEIGHT
    more = [(284, 3, [2]), (273, 4, [0, size, 2 * size]), (279, 4, [size] * 3)]
    yield "tiff-planes", "RGB in planes", strip(2, 8, planes, 3, more=more), {}
    data, offsets, length = tiles(P, 3)
    more = [(322, 3, [16]), (323, 3, [16]), (324, 4, offsets), (325, 4, [length] * len(offsets))]
    yield "tiff-tiles", "RGB in tiles", without(tiled_tags, 2, 8, data, 3, more), {}
    parts = [tiles(band, 1) for band in P.split()]
    data = b"".join(part[0] for part in parts)
    offsets = [len(parts[0][0]) * i + o for i, part in enumerate(parts) for o in part[1]]
    more = [(284, 3, [2]), (322, 3, [16]), (323, 3, [16]), (324, 4, offsets),
            (325, 4, [256] * len(offsets))]
    tiled = without(tiled_tags, 2, 8, data, 3, more)
    yield "tiff-tiled-planes", "RGB in tiles of planes", tiled, {}
    deflated = [zlib.compress(bytes(data[o : o + 256])) for o in offsets]
    starts = [sum(map(len, deflated[:i])) for i in range(len(deflated))]
    more = [(284, 3, [2]), (322, 3, [16]), (323, 3, [16]), (324, 4, starts),
            (325, 4, [len(d) for d in deflated]), (259, 3, [8])]
    data = without(tiled_tags, 2, 8, b"".join(deflated), 3, more)
    yield "tiff-tiled-planes-deflate", "the same, deflated", data, {}
    differences = bytearray(rgb)
    for y in range(HEIGHT):
        row = rgb[y * WIDTH * 3 : (y + 1) * WIDTH * 3]
        for x in range(3, WIDTH * 3):
            differences[y * WIDTH * 3 + x] = (row[x] - row[x - 3]) % 256
    packed = zlib.compress(bytes(differences))
    data = strip(2, 8, packed, 3, 8, more=[(317, 3, [2])])
    yield "tiff-predictor", "RGB, deflate with a predictor", data, {}
    full = [(530, 3, [1, 1]), (532, 5, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1])]
    packed = strip(6, 8, zlib.compress(P.convert("YCbCr").tobytes()), 3, 8, more=full)
    yield "tiff-ycbcr", "YCbCr, deflate", packed, {"mean": 1}
    data = strip(6, 8, zlib.compress(subsampled(P)), 3, 8, more=[(530, 3, [2, 2])] + full[1:])
    yield "tiff-ycbcr-420", "YCbCr in units of 2 x 2, deflate", data, {"mean": 1}
    turned = save(P, "TIFF", tiffinfo={274: 6})
    yield "tiff-orientation-6", "orientation", turned, {}
    packet = strip(2, 8, rgb, 3, more=[(700, 1, list(xmp(6)))])
    yield "tiff-xmp-6", "XMP orientation", packet, {}
    pages = save(P, "TIFF", save_all=True, append_images=[picture().rotate(180)])
    yield "tiff-pages", "several pages: the first", pages, {}
    yield "tiff-zstd", "Zstandard", strip(2, 8, rgb, 3, 50_000), {
        "unsupported": "Zstandard compression"}
    yield "tiff-webp", "WebP in TIFF", strip(2, 8, rgb, 3, 50_001), {
        "unsupported": "WebP compression"}
    yield "tiff-old-jpeg", "old-style JPEG in TIFF", strip(6, 8, rgb, 3, 6), {
        "unsupported": "old-style JPEG compression"}
    yield "tiff-cfa", "raw samples of a camera (DNG)", strip(32_803, 8, grey), {
        "unsupported": "colour filter array"}
    yield "tiff-cut", "cut", strip(2, 8, rgb, 3)[:1_000], {"damaged": True}


def tiled_tags(photometric, bits, samples):
    return [
        (256, 3, [WIDTH]),
        (257, 3, [HEIGHT]),
        (258, 3, [bits] * samples),
        (259, 3, [1]),
        (262, 3, [photometric]),
        (277, 3, [samples]),
    ]


def without(tags, photometric, bits, data, samples, more):
    given = {tag for tag, _, _ in more}
    entries = [e for e in tags(photometric, bits, samples) if e[0] not in given]
    return tiff(entries + more, data)


# --- AVIF


def boxes(data):
    """[(kind, start, end)] of the boxes in some bytes."""
    found, at = [], 0
    while at < len(data):
        length = struct.unpack(">I", data[at : at + 4])[0] or len(data) - at
        found.append((data[at + 4 : at + 8], at + 8, at + length))
        at += length
    return found


def within(data, *path):
    """The content of a box, by its way from outside; meta has four bytes before its boxes."""
    for kind in path:
        start, end = next((start, end) for each, start, end in boxes(data) if each == kind)
        data = data[start:end]
        if kind == b"meta":
            data = data[4:]
    return data


def coded_of(data):
    """The coded data of a file's first picture, and its properties by their kinds."""
    meta = within(data, b"meta")
    located = within(meta, b"iloc")
    # Offsets and lengths of four bytes; the first item's place. Version 1 says how to count, too;
    # libheif writes a base before offsets.
    at, base = 12 + 2 * located[0], located[5] >> 4
    offset, length = struct.unpack(">II", located[at + base + 2 : at + base + 10])
    offset += int.from_bytes(located[at : at + base], "big")
    properties = within(meta, b"iprp", b"ipco")
    kinds = {kind: properties[start:end] for kind, start, end in boxes(properties)}
    return data[offset : offset + length], kinds


def box(kind, *content, version=None):
    body = b"".join(content)
    if version is not None:
        body = struct.pack(">I", version << 24) + body
    return struct.pack(">I", 8 + len(body)) + kind + body


def size(width, height):
    return box(b"ispe", struct.pack(">II", width, height), version=0)


def grid_avif(parts, columns, rows, whole):
    return grid_of(parts, columns, rows, whole, b"av01", b"av1C", b"mif1avifmiaf")


def grid_of(parts, columns, rows, whole, codec, header, brands):
    """A grid of coded pictures; how its parts lie is said in the meta box itself."""
    coded, properties = zip(*[coded_of(part) for part in parts], strict=True)
    config, tile = properties[0][header], properties[0][b"ispe"]
    items = [b"grid"] + [codec] * len(parts)
    names = [
        box(b"infe", struct.pack(">HH", i + 1, 0), kind, b"\0", version=2)
        for i, kind in enumerate(items)
    ]
    layout = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, *whole)
    places = lambda start: [
        struct.pack(">HHHHII", i + 1, method, 0, 1, offset, length)
        for i, (method, offset, length) in enumerate(
            [(1, 0, len(layout))]
            + [
                (0, start + sum(map(len, coded[:i])), len(each))
                for i, each in enumerate(coded)
            ]
        )
    ]
    kinds = box(b"ipco", size(*whole), box(b"ispe", tile), box(header, config))
    owners = struct.pack(">IHBB", len(items), 1, 1, 1) + b"".join(
        struct.pack(">HBBB", i + 1, 2, 2, 0x83) for i in range(1, len(items))
    )
    to = struct.pack(f">HH{len(parts)}H", 1, len(parts), *range(2, len(items) + 1))

    def file(start):
        meta = box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), version=0),
            box(b"pitm", struct.pack(">H", 1), version=0),
            box(b"iloc", struct.pack(">HH", 0x4400, len(items)), *places(start), version=1),
            box(b"iinf", struct.pack(">H", len(items)), *names, version=0),
            box(b"iref", box(b"dimg", to), version=0),
            box(b"iprp", kinds, box(b"ipma", owners, version=0)),
            box(b"idat", layout),
            version=0,
        )
        begin = box(b"ftyp", b"mif1", bytes(4), brands) + meta
        return begin, begin + box(b"mdat", *coded)

    begin, _ = file(0)
    return file(len(begin) + 8)[1]


def avifs():
    import imagecodecs
    import numpy

    plain = save(P, "AVIF", quality=90)
    # Where colour lies between samples, and by how much a number is rounded, is left to decoders.
    near = {"mean": 0.7}
    yield "avif", "4:2:0", plain, near
    for name, kind in [("422", "4:2:2"), ("444", "4:4:4")]:
        yield f"avif-{name}", kind, save(P, "AVIF", quality=90, subsampling=kind), near
    grey = save(P, "AVIF", quality=90, subsampling="4:0:0")
    yield "avif-grey", "grey", grey, near
    odd = picture(41, 29)
    yield "avif-odd", "4:2:0, odd sides", save(odd, "AVIF", quality=90), near
    limited = save(P, "AVIF", quality=90, range="limited")
    yield "avif-limited", "samples from 16 to 235", limited, near
    wide = numpy.asarray(P).astype("uint16")
    for bits in (10, 12):
        coded = imagecodecs.avif_encode(wide << (bits - 8), level=90, bitspersample=bits)
        yield f"avif-{bits}", f"{bits} bits a sample", coded, {"mean": 0.9}
    coded = imagecodecs.avif_encode(
        wide << 2, level=90, bitspersample=10, pixelformat="420", matrix=9, primaries=9, transfer=16
    )
    yield "avif-10-420", "10 bits, 4:2:0, BT.2020: its colours as if they were sRGB", coded, {
        "mean": 0.9}
    coded = imagecodecs.avif_encode(numpy.asarray(P), level=100, matrix=0)
    yield "avif-lossless", "RGB without loss", coded, near
    alpha = P.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(P.size).point(lambda v: 80 + v * 170 // 255))
    yield "avif-alpha", "with alpha", save(alpha, "AVIF", quality=90), near
    shaded = save(alpha, "AVIF", quality=90, alpha_premultiplied=True)
    yield "avif-premultiplied", "with premultiplied alpha", shaded, {"mean": 1.5}
    profile = save(P, "AVIF", quality=90, icc_profile=srgb_profile())
    yield "avif-profile", "a profile", profile, near
    for value in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        turned = save(P, "AVIF", quality=90, exif=exif)
        yield f"avif-orientation-{value}", f"turned as EXIF's {value}", turned, near
        if value == 6:
            unknown = turned.replace(b"irot", b"xrot")
            yield "avif-essential", "what must be known and is not", unknown, {
                "unsupported": "a property that must be known and is not: xrot"}
    moving = save(P, "AVIF", quality=90, save_all=True, append_images=[P.rotate(180)])
    yield "avif-sequence", "animation: the first frame", moving, near
    hidden = moving.replace(b"meta", b"free", 1)
    yield "avif-sequence-only", "animation without a still picture", hidden, {
        "unsupported": "an image sequence without a still picture"}
    large = picture(100, 64)
    parts = [large.crop((0, 0, 64, 64)), large.crop((36, 0, 100, 64))]
    parts[1] = large.transform((64, 64), Image.Transform.AFFINE, (1, 0, 64, 0, 1, 0))
    coded = [save(part, "AVIF", quality=90) for part in parts]
    yield "avif-grid", "a grid of coded pictures", grid_avif(coded, 2, 1, large.size), near
    yield "avif-cut", "cut", plain[:-60], {"damaged": True}
    larger = plain.replace(size(*P.size), size(P.width, P.height + 8))
    yield "avif-larger", "a size that its coded picture does not have", larger, {"damaged": True}


def srgb_profile():
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def grid_heic(parts, columns, rows, whole):
    """What phones write: pictures of a grid, each coded alone."""
    return grid_of(parts, columns, rows, whole, b"hvc1", b"hvcC", b"mif1heicmiaf")


def heics():
    import pillow_heif

    pillow_heif.register_heif_opener()
    # By how much a number is rounded is left to decoders.
    near = {"mean": 0.9}
    plain = save(P, "HEIF", quality=90)
    yield "heic", "4:2:0", plain, near
    for name, kind in [("422", 422), ("444", 444)]:
        coded = save(P, "HEIF", quality=90, chroma=kind)
        yield f"heic-{name}", f"4:{kind // 10 % 10}:{kind % 10}", coded, near
    yield "heic-grey", "grey", save(GREY, "HEIF", quality=90), near
    yield "heic-odd", "odd sides", save(picture(41, 29), "HEIF", quality=90), near
    wide = pillow_heif.from_bytes(
        mode="RGB;16", size=P.size, data=b"".join(struct.pack("<H", v * 257) for v in P.tobytes())
    )
    pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    data = io.BytesIO()
    wide.save(data, quality=90)
    yield "heic-10", "10 bits a sample", data.getvalue(), near
    alpha = P.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(P.size).point(lambda v: 80 + v * 170 // 255))
    yield "heic-alpha", "with alpha", save(alpha, "HEIF", quality=90), near
    for value in (3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = value
        turned = save(P, "HEIF", quality=90, exif=exif)
        yield f"heic-orientation-{value}", f"turned as EXIF's {value}", turned, near
    unbranded = plain.replace(b"heic", b"mif1")
    yield "heic-mif1", "no brand of its codec", unbranded, near
    large = picture(100, 64)
    parts = [large.crop((0, 0, 64, 64))]
    parts += [large.transform((64, 64), Image.Transform.AFFINE, (1, 0, 64, 0, 1, 0))]
    coded = [save(part, "HEIF", quality=90) for part in parts]
    yield "heic-grid", "a grid of coded pictures", grid_heic(coded, 2, 1, large.size), near
    hidden = plain.replace(b"meta", b"free", 1)
    yield "heic-sequence-only", "a sequence without a still picture", hidden, {
        "unsupported": "an image sequence without a still picture"}
    jpeg = plain.replace(b"hvc1", b"jpeg")
    yield "heic-jpeg", "pictures that are no HEVC", jpeg, {
        "unsupported": "a picture of the kind jpeg"}
    yield "heic-cut", "cut", plain[:-60], {"damaged": True}
    broken = bytearray(plain)
    broken[-90:-60] = bytes(30)
    yield "heic-broken", "its coded data overwritten", bytes(broken), {"damaged": True}
    larger = plain.replace(size(64, 64), size(64, 72))
    yield "heic-larger", "a size that its coded picture does not have", larger, {"damaged": True}


def jxls():
    import imagecodecs
    import numpy

    pixels = numpy.asarray(P)
    near = {"mean": 0.7}

    def made(array, **options):
        return imagecodecs.jpegxl_encode(array, **options)

    def reference(data):
        """What libjxl makes of it, as a file that Pillow reads."""
        array = imagecodecs.jpegxl_decode(data)
        if array.dtype != numpy.uint8:
            array = (array >> 8).astype(numpy.uint8)
        return save(Image.fromarray(array).convert("RGB"), "PNG")

    plain = made(pixels, level=95)
    yield "jxl", "codestream", plain, near | {"reference": reference(plain)}
    boxed = made(pixels, level=95, usecontainer=True)
    yield "jxl-container", "container", boxed, near | {"reference": reference(boxed)}
    exact = made(pixels, lossless=True)
    yield "jxl-lossless", "lossless", exact, {"reference": reference(exact)}
    grey = made(numpy.asarray(GREY), lossless=True)
    yield "jxl-grey", "grey", grey, {"reference": reference(grey)}
    rgba = P.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(P.size))
    alpha = made(numpy.asarray(rgba), lossless=True)
    yield "jxl-alpha", "with alpha", alpha, {"reference": save(P, "PNG")}
    wide = made(pixels.astype("uint16") * 257, lossless=True)
    yield "jxl-16", "16 bits a sample", wide, {"reference": save(P, "PNG")}
    again = imagecodecs.jpegxl_encode_jpeg(save(P, "JPEG", quality=90), usecontainer=True)
    yield "jxl-jpeg", "a JPEG, packed again", again, near | {"reference": reference(again)}
    yield "jxl-cut", "cut", plain[:-60], {"damaged": True}


def upright(image):
    if image.mode.startswith("I;16"):
        image = image.point(lambda v: v / 256).convert("L")
    return ImageOps.exif_transpose(image).convert("RGB")


def cases():
    for kind, made in [("JPEG", jpegs()), ("PNG", pngs()), ("WebP", webps())]:
        for name, what, data, more in made:
            yield name, kind, what, data, more
    yield from others()
    for name, what, data, more in tiffs():
        yield name, "TIFF", what, data, more
    for name, what, data, more in avifs():
        yield name, "AVIF", what, data, more
    for name, what, data, more in heics():
        yield name, "HEIC", what, data, more
    for name, what, data, more in jxls():
        yield name, "JPEG XL", what, data, more


def reference_of(data, more):
    if "reference_upright" in more:
        turned = Image.open(io.BytesIO(more.get("reference", data)))
        turned = turned.convert("RGB")
        turned.getexif().clear()
        exif = Image.Exif()
        exif[0x0112] = more["reference_upright"]
        plain = Image.frombytes("RGB", turned.size, turned.tobytes())
        again = Image.open(io.BytesIO(save(plain, "PNG", exif=exif)))
        return ImageOps.exif_transpose(again).convert("RGB")
    return upright(Image.open(io.BytesIO(more.get("reference", data))))


def pillows(data, reference):
    """Whether Pillow makes the same of it."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        made = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError):
        return "refuses"
    return "equal" if made.tobytes() == reference.tobytes() else "differs"


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    listed, references, total = [], {}, 0
    for name, kind, what, data, more in cases():
        refused = {"unsupported", "damaged", "unknown"} & set(more)
        case = {"file": name, "kind": kind, "what": what}
        for key in ("unsupported", "damaged", "unknown", "mean"):
            if key in more:
                case[key] = more[key]
        (OUT / name).write_bytes(data)
        total += len(data)
        if not refused:
            picture_ = reference_of(data, more)
            pixels = picture_.tobytes()
            if pixels not in references:
                references[pixels] = f"{len(references)}.rgb"
                (OUT / references[pixels]).write_bytes(pixels)
                total += len(pixels)
            case |= {"reference": references[pixels], "size": picture_.size}
            case["pillow"] = pillows(data, picture_)
        listed.append(case)
    lines = ",\n".join(" " + json.dumps(case) for case in listed)
    (OUT / "cases.json").write_text(f"[\n{lines}\n]\n")
    print(f"{len(listed)} cases, {total / 1024:.0f} KiB", file=sys.stderr)


if __name__ == "__main__":
    main()
