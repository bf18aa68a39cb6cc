"""Icons of themes (colour) and of icon fonts (one ink), in classes by the words of their names."""
import io
import os
import re

import cairosvg
from fontTools.ttLib import TTFont
from PIL import Image

from .glyphs import mask_of
from .picture import colour, seeded, squared

# The first class with a matching word takes the icon; names that match none are left out (most are brands).
WORDS = {
    "weather": "weather sun sunny moon cloud cloudy rain rainy snow snowflake storm lightning umbrella night fog wind "
               "hurricane tornado flash bolt",
    "vehicles": "car bus train airplane plane truck bike bicycle ship boat ferry rocket subway taxi tractor motorcycle "
                "helicopter tram van railway sail scooter cab flight ambulance fighter jet",
    "nature": "tree flower leaf cat dog bird fish bug paw horse cow pig rabbit duck owl bee butterfly spider turtle "
              "elephant penguin snake feather grass pine sprout clover mushroom tulip rose cactus palm mountain "
              "terrain",
    "food": "food cup coffee beer glass wine fruit apple pizza bottle cake bread cookie carrot egg ice tea cutlery "
            "restaurant cocktail drink martini corn cherry cheese candy hamburger dining bowl silverware fork spoon pot "
            "chef lemon grapes pear",
    "people": "account user person face human contact group people baby child emoticon man woman face smile grin frown "
              "female male users avatar robot skull ghost alien pirate",
    "buildings": "home house building city office store shop hospital school church factory bank castle warehouse garage "
                 "barn domain bed sofa tent hotel temple lighthouse tower bridge",
    "arrows": "arrow arrows chevron caret undo redo sort swap expand rotate refresh direction navigation angle reply forward "
              "back up down left right previous next jump first last sync import export upload download transfer login "
              "logout exit return turn go send merge split",
    "media": "play pause stop eject skip music volume video movie film record microphone headphones speaker audio sound "
             "guitar piano radio album camera photo movie playlist disc cd dvd note",
    "devices": "phone cellphone laptop computer monitor television tv tablet printer mouse keyboard disk drive server "
               "router usb harddisk battery scanner modem chip memory desktop network lan wifi bluetooth watch joystick "
               "gamepad lamp lightbulb bulb plug power flashlight projector webcam fridge washing toaster fan",
    "documents": "file folder document page clipboard archive book note mail email envelope inbox paper newspaper "
                 "package briefcase bookmark image sheet text notebook letter post message comment chat bubble",
    "tools": "wrench hammer tool tools screwdriver cog cogs gear settings scissors cut pencil brush pen edit key lock "
             "unlock magnet paint palette eraser saw axe shovel pipe spray bucket broom microscope telescope "
             "flask beaker stethoscope needle pill bandage anchor compass bomb sword shield bell tag pin cart bag basket "
             "trash delete bin gift trophy crown glasses hat shoe shirt ring",
    "layout": "chart graph table grid view align format border list layout columns rows column row panel window windows "
              "dashboard menu apps sidebar tab crop selection indent paragraph bold italic underline",
    "signs": "alert check close cancel plus minus help info information question block warning error ban search zoom "
             "magnify add remove eye share link attach star heart target rss wheelchair recycle asterisk ok thumb hand",
    "signs ": "circle square triangle hexagon pentagon octagon shape vector diamond cube sphere rhombus rectangle ellipse "
              "cone cylinder pyramid puzzle layers texture gradient blur checkerboard",
}
# Names of icons that show a digit, a dial with digits or a flag: parts of words, and whole words.
NUMBERED = re.compile(
    r"\d|numeric|number|counter|calendar|clock|timer|schedule|speed|gauge|keypad|dialpad|calculator|roman|percent|flag|"
    r"decimal|fraction|digit|binary|exposure|licen|barcode|ruler|pincode|meter|math|function|money|currency|subscript|"
    r"superscript|language|translate|locale|spell|ticket|invoice|receipt|password|zoom-original|education|animator|clap|"
    r"kdenlive|korganizer|spread|repeat-song|keyboard-layout|list-ol|ordered|watch_later|bank|financial|loan|stat|"
    r"assistant_photo")
NUMBERED_WORDS = set("""one two three four five six seven eight nine zero ten first second date today event time hour pin poll
    score alpha letter letters variable cash bill sim html css position level rank rating vote font sheet single character
    looks hd hdr video movie report history""".split())
BRANDS = re.compile(
    r"linkedin|twitter|youtube|steam|reddit|xing|vimeo|tumblr|pinterest|viadeo|git|facebook|google|apple$|bitbucket|"
    r"odnoklassniki|vk|behance|skype|whatsapp|instagram|spotify|amazon|dropbox|android|linux|chrome|firefox|opera|paypal|visa|"
    r"mastercard|amex|stripe|discover|jcb|delicious|digg|stumble|soundcloud|yahoo|wordpress|drupal|joomla|wechat|weibo|"
    r"telegram|slack|medium|mixcloud|lastfm|snapchat|hacker|pied|quora|font-awesome|fork-awesome|diaspora|mastodon|friendica|"
    r"pump|gnu|social|liberapay|peertube|pleroma|debian|ubuntu|windows$|hashnode|matrix|microsoft|nintendo|playstation|"
    r"xbox|blogger|picasa|deviantart|dribbble|flickr|foursquare|orkut|plurk|path|friendfeed|livejournal|myspace|podcast|"
    r"stackoverflow|w3c|laravel|php|react|nodejs|npm|python|convenience|safari|netflix|whmcs|evernote|trello|"
    r"jsfiddle|codepen")


def class_of(name):
    name = re.sub(r"([a-z])([A-Z])", r"\1-\2", name).lower()
    words = set(re.split(r"[^a-z]+", name))
    if NUMBERED.search(name) or words & NUMBERED_WORDS or BRANDS.search(name):
        return None
    for cls, wanted in WORDS.items():
        if words & set(wanted.split()):
            return "i-" + cls.strip()
    return None


def theme(package, folder):
    """Colour icons: of each name the largest PNG up to 128, else the SVG drawn at 96.  Yields (class, source, name, RGBA)."""
    best = {}
    for where, _, files in sorted(os.walk(folder)):
        for f in sorted(files):
            path, (name, ext) = os.path.join(where, f), os.path.splitext(f)
            if os.path.islink(path) or ext not in (".png", ".svg") or name.endswith(("symbolic", "-rtl")):
                continue
            cls = class_of(name)
            if not cls or "cursor" in where or "symbolic" in where or "animations" in where:
                continue
            try:
                size = max(Image.open(path).size) if ext == ".png" else 96
            except OSError:
                continue
            if size <= 128 and size > best.get(name, (0,))[0]:
                best[name] = (size, path, cls)
    for name, (size, path, cls) in sorted(best.items()):
        try:
            if path.endswith(".svg"):
                image = Image.open(io.BytesIO(cairosvg.svg2png(url=path, output_width=96, output_height=96)))
            else:
                image = Image.open(path)
            image = squared(image)
        except Exception:  # an SVG that the renderer does not know
            continue
        if image:
            yield cls, package, name, image


def names_of(path):
    """Glyph names of an icon font, by code point."""
    font = TTFont(path, lazy=True)
    return {code: name for code, name in font.getBestCmap().items() if code > 0xff}


def codepoints(folder):
    """name -> code point from the package's style sheet, where the font's own glyph names say nothing."""
    found = {}
    for where, _, files in sorted(os.walk(folder)):
        for f in sorted(files):
            if f.endswith(".css") and "min" not in f:
                text = open(os.path.join(where, f), encoding="utf-8", errors="replace").read()
                for names, code in re.findall(r'((?:\.[a-z0-9_-]+:{1,2}before\s*,?\s*)+)\{\s*content:\s*"\\([0-9a-fA-F]+)', text):
                    name = re.findall(r"\.([a-z0-9_-]+?):", names)[0]
                    found.setdefault(int(code, 16), re.sub(r"^(fa|el|mdi|glyphicon|icon|entypo)-", "", name))
            if f == "codepoints":
                for line in open(os.path.join(where, f), encoding="utf-8"):
                    name, code = line.split()
                    found.setdefault(int(code, 16), name)
    return found


def icon_font(package, folder):
    """Icons of a font, in an ink by their name: yields (class, source, name, RGBA square of 128)."""
    path = sorted(os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs if f.endswith((".ttf", ".otf")))[0]
    names = codepoints(folder)
    for code, glyph_name in sorted(names_of(path).items()):
        name = names.get(code, glyph_name)
        cls = class_of(name)
        glyph = mask_of(path, 0, chr(code)) if cls else None
        if glyph is None:
            continue
        yield cls, package, name, squared(inked(glyph, seeded("icon ink", package, name)))


def inked(glyph, r):
    ink = (0, 0, 0) if r.random() < 0.35 else colour(r)
    if sum(ink) > 480:  # it must be seen on white
        ink = tuple(v // 2 for v in ink)
    image = Image.new("RGBA", glyph.size, ink)
    image.putalpha(glyph)
    return image
