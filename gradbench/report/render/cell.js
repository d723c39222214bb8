// The table of cells, from the data at the end of the page, and what opens under one.

const data = JSON.parse(document.getElementById("data").textContent);
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ABSENT = 4095;
const [WIDTH, HEIGHT] = [230, 120];

// Everything that is shown becomes text, never markup.
const make = (name, attributes, ...children) => {
  const vector = ["svg", "path", "line", "text", "g"].includes(name);
  const element = vector ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  element.append(...children);
  return element;
};

const real = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);

const number = (given, digits = 3) => {
  const value = real(given);
  if (value === null) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text =
    size >= 10 ** digits && size < 1e6
      ? value.toLocaleString("en-US", { maximumFractionDigits: 0 })
      : size !== 0 && (size < 1e-4 || size >= 1e6)
        ? value.toExponential(digits - 1).replace(/\.?0+e/, "e")
        : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
};

const decode = ([low, high, log, letters]) => {
  const points = [];
  for (let place = 0; place < letters.length; place += 2) {
    const height = LETTERS.indexOf(letters[place]) * 64 + LETTERS.indexOf(letters[place + 1]);
    points.push(height === ABSENT ? null : low + ((high - low) * height) / (ABSENT - 1));
  }
  return { points, low, high, log };
};

const chart = (title, last, lines) => {
  const kept = lines.filter(({ line }) => line).map(({ line, dash }) => ({ ...decode(line), dash }));
  if (!kept.length) return null;
  // Lines that share a panel share its axis: logarithmic where one of them is and the others can be.
  const log = kept.some((line) => line.log) && kept.every((line) => line.log || line.low > 0);
  const raise = (value, line) => (log && !line.log ? Math.log10(value) : !log && line.log ? 10 ** value : value);
  const ends = kept.flatMap((line) => [raise(line.low, line), raise(line.high, line)]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const [left, top, right, bottom] = [44, 8, WIDTH - 6, HEIGHT - 18];
  const y = (value) => (high > low ? bottom - ((value - low) / (high - low)) * (bottom - top) : (top + bottom) / 2);
  const said = (value) => number(log ? 10 ** value : value);
  const name = `${title}, from step 1 to ${last}; between ${said(low)} and ${said(high)}`;
  const picture = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name });
  (high > low ? [low, (low + high) / 2, high] : [low]).forEach((value) => {
    picture.append(
      make("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "rule" }),
      make("text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, said(value)),
    );
  });
  kept.forEach((line) => {
    let path = "";
    let down = false;
    // A metric is evaluated now and then: where most points are absent, those there are get joined.
    const sparse = line.points.filter((point) => point === null).length > line.points.length / 4;
    line.points.forEach((point, index) => {
      if (point === null) {
        down = down && sparse;
        return;
      }
      const x = left + ((index + 0.5) / line.points.length) * (right - left);
      path += `${down ? "L" : "M"}${x.toFixed(1)},${y(raise(point, line)).toFixed(1)}`;
      if (!down) path += "h0.01"; // a single point is a dot
      down = true;
    });
    const dot = line.points.filter((point) => point !== null).length === 1 ? " dot" : "";
    picture.append(make("path", { d: path, class: `${line.dash ? "line used" : "line"}${dot}` }));
  });
  picture.append(
    make("text", { x: left, y: HEIGHT - 5 }, "1"),
    make("text", { x: right, y: HEIGHT - 5, "text-anchor": "end" }, `step ${last}`),
  );
  return make("figure", { class: "chart" }, make("figcaption", {}, log ? `${title} (log)` : title), picture);
};

class Cell {
  constructor(row) {
    const [id, group, treatment, symbol, strength, seed, status, stopped, value, milliseconds] = row;
    [this.config, this.tokens, this.error, this.sketch, this.caution] = row.slice(10);
    const word = (place) => data.words[place];
    const [quantity, ended] = [word(symbol), word(status)];
    this.id = id;
    this.group = word(group);
    this.seed = seed;
    this.status = ended;
    this.texts = [
      id,
      this.group,
      word(treatment),
      strength === null ? quantity || "–" : `${quantity ? `${quantity} = ` : ""}${number(strength)}`,
      number(seed, 9),
      stopped === null ? ended : `${ended} at ${stopped}`,
      number(value, 4),
      number(milliseconds),
    ];
    this.orders = [id, this.group, word(treatment), real(strength), seed, ended, real(value), milliseconds];
    searched(this);
    this.open = false;
  }

  row() {
    const button = make("button", { type: "button", class: "id", "aria-expanded": this.open }, this.id);
    button.addEventListener("click", () => this.toggle(button));
    const places = this.texts.slice(1).map((text) => make("td", {}, text));
    this.element = make("tr", { class: this.status, id: `cell-${this.id}` }, make("td", {}, button), ...places);
    return this.open ? [this.element, this.details()] : [this.element];
  }

  toggle(button) {
    this.open = !this.open;
    button.setAttribute("aria-expanded", this.open);
    if (this.open) {
      this.element.after(this.details());
      history.replaceState(null, "", `#cell-${this.id}`);
    } else {
      this.element.nextElementSibling.remove();
    }
  }

  details() {
    const [last, loss, raw, used, metric] = this.sketch || [];
    const both = [{ line: raw }, { line: used, dash: true }];
    const charts = this.sketch
      ? [
          chart("training loss", last, [{ line: loss }]),
          chart(used ? "‖g‖₂, dashed: as used" : "‖g‖₂", last, both),
          chart(data.units[this.group], last, [{ line: metric }]),
        ].filter(Boolean)
      : [];
    const command = this.tokens.map((place) => data.words[place]).join(" ");
    const copy = make("button", { type: "button", class: "copy" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code); // no clipboard here: the person's own copy key does it
        copy.textContent = "Selected";
      }
    });
    const words = command.split(" ").flatMap((word, place) => [
      place ? " " : "",
      word.startsWith("-") ? make("span", { class: "option" }, word) : word,
    ]);
    const code = make("code", {}, ...words);
    const parts = [
      charts.length ? make("div", { class: "charts" }, ...charts) : make("p", {}, "No curve was recorded."),
      ...(this.error < 0 ? [] : [make("p", { class: "error" }, data.words[this.error])]),
      make("p", { class: "command" }, code, " ", ...(this.caution < 0 ? [copy] : [])),
      ...(this.caution < 0 ? [] : [make("p", {}, data.words[this.caution])]),
      make("dl", { class: "config" }, ...this.leaves()),
    ];
    const wide = { colspan: this.texts.length };
    return make("tr", { class: "details" }, make("td", wide, make("div", { class: "inside" }, ...parts)));
  }

  leaves() {
    const values = data.configs[this.config].map((place, index) => [data.leaves[index], place]);
    const known = values.filter(([, place]) => place >= 0).map(([leaf, place]) => [leaf, data.words[place]]);
    return [...known, ["seed", String(this.seed)]].map(([leaf, value]) =>
      make("div", {}, make("dt", {}, leaf), make("dd", {}, value)),
    );
  }
}

const cells = data.rows.map((row) => new Cell(row));
const table = new Grid(document.getElementById("cells-table"), cells);

// #cell-<id> opens that cell.
const follow = () => {
  const found = cells.find((cell) => location.hash === `#cell-${cell.id}`);
  if (!found) return;
  if (!table.shown.slice(0, table.limit).includes(found)) {
    table.input.value = found.id;
    table.filter();
  }
  if (!found.open) found.toggle(found.element.querySelector("button"));
  found.element.scrollIntoView({ block: "center" });
  found.element.querySelector("button").focus({ preventScroll: true });
};
addEventListener("hashchange", follow);
follow();
