"use strict";
// Sorting and filtering of the table of cells; without a script it is a plain table.
(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.querySelectorAll("th[aria-sort]"));

  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    const [gone, missing] = [a === "nan", b === "nan"];
    if (gone || missing) return Number(gone) - Number(missing);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.order;
      const sorted = rows.slice().sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const absent = Number(x === "nan") - Number(y === "nan");
        return absent || (down ? compare(y, x) : compare(x, y));
      });
      body.append(...sorted);
    });
  });

  const filter = document.getElementById("filter");
  const shown = document.getElementById("shown");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    rows.forEach((row) => {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      count += Number(!row.hidden);
    });
    shown.textContent = `${count} of ${rows.length}`;
  });
})();
