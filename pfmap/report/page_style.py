"""The look of a survey's page, beside what all pages share."""

STYLE = """
body { max-width: 68rem; }
.skip { position: absolute; left: -99rem; }
.skip:focus { position: static; display: inline-block; padding: .5rem; }
header p { color: #555; max-width: none; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; padding: .25rem 0; margin: 0;
  border-top: 1px solid #ccc; border-bottom: 1px solid #ccc; }
nav a { display: inline-block; padding: .3rem 0; }
.totals { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.totals div { border: 1px solid #ddd; border-top: 4px solid #1d5b8c; padding: .5rem .75rem .6rem; }
.totals div.bad { border-top-color: #b2182b; }
.totals dd { font-size: 1.45rem; font-weight: 600; line-height: 1.2; }
.totals small { display: block; font-size: .85rem; font-weight: 400; color: #555; margin-top: .2rem; }
.state { white-space: nowrap; font-weight: 500; } .state svg { width: 1em; height: 1em; margin-right: .35em;
  vertical-align: -.12em; }
.done { color: #0b6b46; } .skipped { color: #1d5b8c; } .failed { color: #b2182b; }
.alarm { border-left: 4px solid #b2182b; background: #fdf3f4; padding: .1rem 1rem .6rem; }
.alarm h2 { border: 0; margin-top: .6rem; }
.warn { border-left: 4px solid #8a5a00; background: #fdf8ec; padding: .3rem 1rem; margin: .75rem 0; }
.alarm li, .warn li { overflow-wrap: anywhere; }
.map svg { max-width: none; display: block; background: #f3f5f7; border: 1px solid #ccc; }
.map polygon { stroke-width: 1.75; vector-effect: non-scaling-stroke; stroke: currentColor;
  fill: currentColor; fill-opacity: .16; }
.map .failed polygon { stroke-dasharray: 6 3; } .map .skipped polygon { stroke-dasharray: 1.5 3; }
.map polygon[fill^=url] { stroke: none; fill: url(#hatch); fill-opacity: .35; }
.map text { font-size: 20px; text-anchor: middle; fill: #222; paint-order: stroke; stroke: #fff;
  stroke-width: 4px; }
.map a:focus-visible { outline: none; }
.map a:focus-visible polygon, .map a:hover polygon { stroke-width: 5; stroke-dasharray: none; }
.map a:focus-visible polygon { fill-opacity: .5; }
.scale { display: block; margin: .4rem 0 .1rem; }
.scale span { display: block; height: 6px; border: 2px solid #222; border-top: 0; box-sizing: border-box; }
.scale b { font-size: .85rem; font-weight: 500; }
.stack { display: flex; height: 1.6rem; margin: .5rem 0; border: 1px solid #0003; overflow: hidden; }
td .stack { height: .8rem; width: 6rem; margin: 0; }
.bar { min-width: 8rem; }
.bar span { display: inline-block; height: .75em; border: 1px solid #0005; box-sizing: border-box;
  vertical-align: -.05em; }
td.bar { text-align: left; }
.scene .bar { min-width: 5rem; } table.full { width: 100%; }
.classes thead td { border-bottom: 1px solid #888; }
.classes tbody th { white-space: nowrap; }
.scenes tr > :nth-child(2) { text-align: left; }
.scenes caption { position: sticky; left: 0; max-width: calc(100vw - 2.2rem); }
.scenes th[scope=row] { overflow-wrap: anywhere; min-width: 9rem; }
.scenes td { vertical-align: middle; }
details { border-top: 1px solid #ccc; }
summary { padding: .6rem .25rem; cursor: pointer; display: flex; flex-wrap: wrap; align-items: baseline;
  gap: .1rem 1rem; }
summary::before { content: "▸"; color: #555; } details[open] > summary::before { content: "▾"; }
summary::-webkit-details-marker { display: none; }
summary h3 { margin: 0; overflow-wrap: anywhere; }
summary .note { margin-left: auto; }
.scene { padding: 0 0 1.5rem; scroll-margin-top: 3.5rem; display: grid; gap: 0 2rem;
  grid-template-columns: minmax(0, 1fr); }
.scene:focus { outline: none; }
.scene figure img { width: 100%; max-width: 100%; border: 0; background:
  repeating-conic-gradient(#e9ecef 0 25%, #fff 0 50%) 0 0 / 14px 14px; }
.scene figure.tall img { width: auto; max-height: 24rem; }
.files { padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; margin: .25rem 0; }
.files a { overflow-wrap: anywhere; display: inline-block; padding: .15rem 0; }
.scene h4 { margin: .9rem 0 .1rem; font-size: 1rem; } .scene p { overflow-wrap: anywhere; }
.marks { position: absolute; width: 0; height: 0; }
@media (max-width: 60rem) { .scene .second { display: none; } }
@media (min-width: 50rem) { .scene.pictured { grid-template-columns: fit-content(25rem) minmax(0, 1fr); } }
@media (max-width: 34rem) { dl:not(.totals) { grid-template-columns: minmax(5rem, max-content) 1fr; }
  .totals { grid-template-columns: 1fr 1fr; gap: .5rem; }
  .totals div:last-child:nth-child(odd) { grid-column: 1 / -1; } .map text { display: none; }
  .totals dd { font-size: 1.2rem; } .bar, .scene .bar { min-width: 1.5rem; }
  .classes th, .classes td { padding: .2rem .25rem; }
  summary .note { margin-left: 1.1rem; }
  .classes .second { display: none; } td .stack { width: 4rem; } }
@media (max-width: 22rem) { .classes .bar { display: none; }
  .classes th, .classes td { padding: .2rem; font-size: .8rem; } }
@page { margin: 14mm; }
@media print { nav, .skip { display: none; } .long { break-inside: auto; } .long tr { break-inside: avoid; }
  .totals, .alarm li, .scene figure, .stack { break-inside: avoid; } .scenes { font-size: 8pt; }
  .scenes th, .scenes td { padding: .15rem .3rem; } .scenes th[scope=row] { min-width: 6rem; }
  .totals { grid-template-columns: repeat(5, 1fr); } .totals dd { font-size: 1.1rem; }
  .scene.pictured { grid-template-columns: minmax(0, 19rem) minmax(0, 1fr); }
  summary::before, details[open] > summary::before { content: none; } details { break-inside: avoid; }
  .alarm details::details-content { content-visibility: visible; block-size: auto; }
  #details > details:not([open]), #details:not(:has(details[open])) { display: none; }
  a { color: inherit; text-decoration: none; } .alarm, .warn { padding-left: .6rem; }
  #map { break-inside: avoid; } .map { max-width: calc(120mm * var(--aspect)); }
  .scene figure.tall img { max-height: 85mm; } }
"""

MARKS = (
    '<svg class="marks" aria-hidden="true" focusable="false">'
    '<symbol id="mark-done" viewBox="0 0 20 20"><circle cx="10" cy="10" r="9" fill="#0b6b46"/>'
    '<path d="M5.5 10.5l3 3 6-7" fill="none" stroke="#fff" stroke-width="2.2"/></symbol>'
    '<symbol id="mark-skipped" viewBox="0 0 20 20"><rect x="1" y="1" width="18" height="18" fill="#1d5b8c"/>'
    '<path d="M5 7.5h10M5 12.5h10" stroke="#fff" stroke-width="2.2"/></symbol>'
    '<symbol id="mark-failed" viewBox="0 0 20 20"><path d="M10 .5l9.5 9.5-9.5 9.5L.5 10z" fill="#b2182b"/>'
    '<path d="M6.7 6.7l6.6 6.6m0-6.6l-6.6 6.6" stroke="#fff" stroke-width="2.2"/></symbol></svg>\n'
)
"""The marks of a scene's state: round, square and diamond, so that colour does not tell them apart alone."""
