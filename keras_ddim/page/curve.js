// The curve of noise against step, whose points are dragged by mouse, touch and keyboard.

const PAD = { top: 44, right: 24, bottom: 32, left: 24 };
const GAP = 0.004; // between the heights of two points
const UP = { ArrowUp: 0.01, ArrowRight: 0.01, PageUp: 0.05, End: 1 };
const KEYS = { ...UP, ArrowDown: -0.01, ArrowLeft: -0.01, PageDown: -0.05, Home: -1 };

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function element(parent, name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return parent.appendChild(made);
}

export class Curve {
  /**
   * `describe(height)` is the text of a point; `changed(heights)` is called with each movement.
   */
  constructor(svg, describe, changed) {
    Object.assign(this, { svg, describe, changed, heights: [], others: [], selected: 0 });
    this.area = element(svg, "path", { class: "area" });
    this.other = element(svg, "path", { class: "other" });
    this.line = element(svg, "path", { class: "line" });
    this.label = element(svg, "text", { class: "label", "aria-hidden": true });
    this.points = element(svg, "g", {});
    svg.addEventListener("dblclick", (event) => this.addAt(event));
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  /** Shows a list of heights from 1, all noise, to 0; `others` are drawn dashed, to compare. */
  show(heights, others = []) {
    Object.assign(this, { heights, others });
    this.selected = Math.min(this.selected, heights.length - 1);
    this.draw();
  }

  x(i, count = this.heights.length) {
    const width = this.svg.clientWidth - PAD.left - PAD.right;
    return PAD.left + (count > 1 ? i / (count - 1) : 0.5) * width;
  }

  y(height) {
    return PAD.top + (1 - height) * (this.svg.clientHeight - PAD.top - PAD.bottom);
  }

  heightOf(event) {
    const { top, height } = this.svg.getBoundingClientRect();
    return 1 - (event.clientY - top - PAD.top) / (height - PAD.top - PAD.bottom);
  }

  draw() {
    const path = (heights) =>
      heights.map((h, i) => `${i ? "L" : "M"}${this.x(i, heights.length)},${this.y(h)}`).join("");
    const line = path(this.heights);
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", `${line}V${this.y(0)}H${this.x(0)}Z`);
    this.other.setAttribute("d", path(this.others));
    while (this.points.children.length > this.heights.length) this.points.lastChild.remove();
    while (this.points.children.length < this.heights.length) this.makePoint();
    this.heights.forEach((height, i) => {
      const point = this.points.children[i];
      point.setAttribute("transform", `translate(${this.x(i)},${this.y(height)})`);
      point.setAttribute("aria-label", `Step ${i + 1} of ${this.heights.length}`);
      point.setAttribute("aria-valuenow", Math.round(100 * height));
      point.setAttribute("aria-valuetext", this.describe(height));
      point.classList.toggle("selected", i === this.selected);
    });
    const height = this.heights[this.selected];
    this.label.textContent = this.describe(height);
    const half = this.label.getComputedTextLength() / 2;
    const x = clamp(this.x(this.selected), half + 10, this.svg.clientWidth - half - 10);
    this.label.setAttribute("x", x);
    this.label.setAttribute("y", this.y(height) - 16);
  }

  makePoint() {
    const slider = { role: "slider", tabindex: 0, "aria-orientation": "vertical" };
    Object.assign(slider, { "aria-valuemin": 0, "aria-valuemax": 100 });
    const point = element(this.points, "g", { class: "point", ...slider });
    element(point, "circle", { r: 22, fill: "transparent" });
    element(point, "circle", { class: "dot", r: 7 });
    const index = () => [...this.points.children].indexOf(point);
    let before = null; // the heights when the dragging began: points that were pushed come back
    point.addEventListener("focus", () => this.select(index()));
    point.addEventListener("keydown", (event) => this.press(event, index()));
    point.addEventListener("pointerdown", (event) => {
      point.setPointerCapture(event.pointerId);
      before = [...this.heights];
      this.select(index());
    });
    point.addEventListener("pointermove", (event) => {
      if (before) this.move(index(), this.heightOf(event), before);
    });
    point.addEventListener("lostpointercapture", () => (before = null));
  }

  select(i) {
    this.selected = i;
    this.draw();
  }

  press(event, i) {
    if (event.key in KEYS) this.move(i, this.heights[i] + KEYS[event.key]);
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(i);
    else if (event.key === "+" || event.key === "Insert") this.add(i);
    else return;
    event.preventDefault();
  }

  /** Moves a point, which pushes those that are in its way. */
  move(i, height, from = this.heights) {
    const last = from.length - 1;
    const target = clamp(height, GAP * (last - i), 1 - GAP * i);
    const push = (other, j) => {
      const limit = target + GAP * (i - j);
      return j < i ? Math.max(other, limit) : Math.min(other, limit);
    };
    this.changed(from.map((other, j) => (j === i ? target : push(other, j))));
  }

  /** Adds a point after another, half-way to the next. */
  add(i = this.selected) {
    const [height, next] = [this.heights[i], this.heights[i + 1] ?? 0];
    if (height - next >= 2 * GAP) this.insert(i + 1, (height + next) / 2);
  }

  addAt(event) {
    const height = this.heightOf(event);
    const isApart = this.heights.every((other) => Math.abs(other - height) >= GAP);
    if (height < 0 || height > 1 || !isApart) return;
    this.insert(this.heights.filter((other) => other > height).length, height);
  }

  insert(i, height) {
    this.selected = i;
    this.changed(this.heights.toSpliced(i, 0, height));
    this.points.children[i]?.focus();
  }

  remove(i = this.selected) {
    if (this.heights.length < 2) return;
    this.selected = Math.max(i - 1, 0);
    this.changed(this.heights.toSpliced(i, 1));
    this.points.children[this.selected].focus();
  }
}
