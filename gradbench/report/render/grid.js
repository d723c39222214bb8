"use strict";
// Tables to sort and filter. A grid holds entries {texts, orders, row()}, and shows a window of those that match.

const WINDOW = 100;

class Grid {
  constructor(root, entries) {
    this.entries = entries;
    this.shown = entries;
    this.limit = WINDOW;
    this.body = root.querySelector("tbody");
    this.input = root.querySelector("input");
    this.output = root.querySelector("output");
    this.more = root.querySelector(".more");
    this.button = this.more.querySelector("button");
    this.heads = Array.from(root.querySelectorAll("th"));
    this.columns = this.heads.map((head) => head.textContent.toLowerCase());
    this.heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => this.sort(column));
    });
    this.input.addEventListener("input", () => this.filter());
    this.button.addEventListener("click", () => {
      this.limit += WINDOW * 5;
      this.draw();
    });
    this.filter();
  }

  sort(column) {
    const head = this.heads[column];
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    this.heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const missing = (order) => order === "" || order === null;
    this.entries.sort((a, b) => {
      const [x, y] = [a.orders[column], b.orders[column]];
      if (missing(x) || missing(y)) return Number(missing(x)) - Number(missing(y));
      const both = typeof x === "number" && typeof y === "number";
      return sign * (both ? (x > y) - (x < y) : String(x).localeCompare(String(y), "en", { numeric: true }));
    });
    this.filter();
  }

  // Words that a row must hold; column=value, column<value and column>value ask for one of its columns.
  filter() {
    const tests = this.input.value.toLowerCase().split(/\s+/).filter(Boolean).map((word) => this.test(word));
    this.shown = this.entries.filter((entry) => tests.every((test) => test(entry)));
    this.limit = WINDOW;
    this.draw();
  }

  test(word) {
    const parts = /^(.+?)(<|>|=)(.+)$/.exec(word);
    const column = parts ? this.columns.findIndex((name) => name.replace(/\s/g, "") === parts[1]) : -1;
    if (column < 0) return (entry) => entry.words.includes(word);
    const [, , sign, wanted] = parts;
    const number = Number(wanted);
    if (sign === "=") {
      return (entry) => entry.texts[column].toLowerCase() === wanted || entry.orders[column] === number;
    }
    return (entry) => {
      const order = entry.orders[column];
      return typeof order === "number" && (sign === "<" ? order < number : order > number);
    };
  }

  draw() {
    const rows = this.shown.slice(0, this.limit).flatMap((entry) => entry.row());
    this.body.replaceChildren(...rows);
    this.output.textContent = `${this.shown.length} of ${this.entries.length}`;
    const left = this.shown.length - this.limit;
    this.more.hidden = left <= 0;
    this.button.textContent = `Show ${Math.min(left, WINDOW * 5)} more of ${left}`;
  }
}

const searched = (entry) => Object.assign(entry, { words: entry.texts.join(" ").toLowerCase() });

document.querySelectorAll(".grid:not(#cells-table)").forEach((root) => {
  const entries = Array.from(root.querySelectorAll("tbody tr"), (row) => {
    const places = Array.from(row.cells);
    const number = (order) => (order === "" || Number.isNaN(Number(order)) ? order : Number(order));
    return searched({
      texts: places.map((place) => place.textContent),
      orders: places.map((place) => number(place.dataset.order.replace("inf", "Infinity"))),
      row: () => [row],
    });
  });
  new Grid(root, entries);
});
