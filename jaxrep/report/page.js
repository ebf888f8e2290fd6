"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const images = read("images");
for (const img of document.querySelectorAll("img[data-image]")) img.src = images[img.dataset.image];

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* Fonts and colors of figures follow the light or dark style of the page. */
function figureStyle() {
  const axis = { gridcolor: color("--rule"), zerolinecolor: color("--rule"), linecolor: color("--rule") };
  const card = { bgcolor: color("--card"), bordercolor: color("--rule"), font: { color: color("--ink") } };
  const font = { family: color("--sans"), size: 11.5, color: color("--muted") };
  return { font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hoverlabel: card, xaxis: axis, yaxis: axis };
}
function styled(layout) {
  const style = figureStyle();
  return {
    height: 190, margin: { l: 48, r: 10, t: 8, b: 30 }, hovermode: "x unified", showlegend: false,
    legend: { orientation: "h", y: -0.04, yanchor: "top" }, ...layout, ...style,
    xaxis: { ...style.xaxis, automargin: true, ...layout.xaxis }, yaxis: { ...style.yaxis, automargin: true, ...layout.yaxis },
  };
}
const plots = [...document.querySelectorAll(".plot")].map((place) => [place, read(place.dataset.figure)]);
const options = { displayModeBar: false, responsive: true };
const drawn = plots.map(([place, { data, layout }]) =>
  Plotly.newPlot(place, data, styled(layout), options).then(() => watch(place)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const [place, { data, layout }] of plots) Plotly.react(place, data, styled(layout), options);
});

/* Tooltip with the image of a point. */
const hover = document.getElementById("hover");
function watch(place) {
  place.on("plotly_hover", ({ points, event }) => {
    const about = points[0].customdata;
    if (!about) return;
    hover.replaceChildren(Object.assign(new Image(), { src: images[about[0]], alt: "" }), String(about[1]));
    hover.style.display = "flex";
    const { offsetWidth: width, offsetHeight: height } = hover;
    hover.style.left = `${Math.min(event.clientX + 16, innerWidth - width - 8)}px`;
    hover.style.top = `${Math.max(Math.min(event.clientY + 16, innerHeight - height - 8), 8)}px`;
  });
  place.on("plotly_unhover", () => { hover.style.display = "none"; });
}
Promise.all([...drawn, ...[...document.images].map((img) => img.decode())])
  .then(() => { document.documentElement.dataset.ready = "yes"; });
