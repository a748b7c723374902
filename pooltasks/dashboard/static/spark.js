// A line without axes: the shape of the last minutes. Unknown is a gap.

const WIDTH = 120;
const HEIGHT = 28;
const SPACE = "http://www.w3.org/2000/svg";

export function drawSpark(cell, values) {
  let path = cell.querySelector("path");
  if (path === null) {
    const image = document.createElementNS(SPACE, "svg");
    image.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    image.setAttribute("width", WIDTH);
    image.setAttribute("height", HEIGHT);
    image.setAttribute("aria-hidden", "true");
    path = document.createElementNS(SPACE, "path");
    image.append(path);
    cell.append(image);
  }
  const most = Math.max(...values.filter((value) => value !== null), 0) || 1;
  let pen = "M";
  let line = "";
  values.forEach((value, place) => {
    if (value === null) {
      pen = "M";
      return;
    }
    const x = (place / Math.max(1, values.length - 1)) * WIDTH;
    const y = HEIGHT - 2 - (value / most) * (HEIGHT - 4);
    line += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  });
  path.setAttribute("d", line);
}
