"""Write the template of the page of `dvc plots`. It contains everything it needs, so the page opens offline.

    python -m stages.plots_page

Writes outputs/plots_page.html, which .dvc/config names as the template: `dvc plots show` and `diff`
put the plots in place of {plot_divs}. The JavaScript is Vega, Vega-Lite and Vega-Embed.
"""

from pathlib import Path

import vl_convert

from stages.common import files
from stages.console import command

PLOTS_PAGE = Path("outputs/plots_page.html")
VEGA_LITE = "6.4"
ONE_BY_ONE = """
let drawn = Promise.resolve();
window.vegaEmbed = (place, plot) => drawn = drawn
  .then(() => new Promise(next => setTimeout(next)))
  .then(() => vegaEmbed(place, plot, {renderer: "canvas"}));
"""
"""The page appears at once and its plots one after the other, instead of all together at the end."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Image classifiers: plots</title>
<link rel="icon" href="data:,">
{refresh_tag}
<style>
body { font-family: system-ui, sans-serif; margin: 1rem; background: white; color: #202124; }
body > div { margin-bottom: 2.5rem; overflow-x: auto; }
img { max-width: 100%; }
</style>
<script>JAVASCRIPT</script>
</head>
<body>
<h1>Image classifiers: plots</h1>
{plot_divs}
</body>
</html>
"""


def main() -> None:
    command.no_arguments(__doc__)
    javascript = vl_convert.javascript_bundle(ONE_BY_ONE, vl_version=VEGA_LITE)
    with files.replacing(PLOTS_PAGE) as (partial,):
        files.write_text(partial, PAGE.replace("JAVASCRIPT", javascript))


if __name__ == "__main__":
    command.run(main)
