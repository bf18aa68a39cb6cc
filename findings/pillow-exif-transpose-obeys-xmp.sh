#!/bin/sh
# findings/pillow-exif-transpose-obeys-xmp.sh - ImageOps.exif_transpose turns a picture that has no EXIF at all.
#
# Pillow's getexif() looks for tiff:Orientation in the XMP packet when EXIF does not say an orientation, in JPEG, PNG and
# WebP alike, and shows it as if it were tag 274 of EXIF.  A loader that promises "EXIF orientation is applied" and uses
# exif_transpose (or copies Pillow's rule from its documentation) therefore turns other files than one that reads EXIF.
# Exits with 1 when that is no longer so.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==13.0.0
"$work/venv/bin/python" - <<'P'
import io
import sys

import PIL
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

xmp = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
       '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
       '</rdf:RDF></x:xmpmeta>')
text = PngInfo()
text.add_itxt("XML:com.adobe.xmp", xmp)
same = True
print("Pillow", PIL.__version__)
for kind, options in (("JPEG", {"xmp": xmp.encode()}), ("WEBP", {"xmp": xmp.encode()}), ("PNG", {"pnginfo": text})):
    file = io.BytesIO()
    Image.new("RGB", (6, 4)).save(file, kind, **options)
    im = Image.open(io.BytesIO(file.getvalue()))
    turned = ImageOps.exif_transpose(im).size
    print(f"{kind:5} stored {im.size}, EXIF block: {'exif' in im.info}, getexif() {dict(im.getexif())}, "
          f"exif_transpose {turned}")
    same = same and "exif" not in im.info and turned == (4, 6)
print("as found" if same else "CHANGED")
sys.exit(not same)
P
