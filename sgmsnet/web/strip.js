// The strip of examples: a click or the Enter key asks the server for that one; and files may be pasted and dropped anywhere.

const tiles = [...element.querySelectorAll(".sg-example")];
let asked = null; // the example that was chosen last, unless a file was

const markShown = (name) => {
  for (const tile of tiles) tile.setAttribute("aria-current", name !== null && name === asked && tile.dataset.name === name);
};

element.addEventListener("click", ({ target }) => {
  const chosen = target.closest(".sg-example");
  if (!chosen) return;
  asked = chosen.dataset.name;
  trigger("click", { name: asked });
});

document.addEventListener("change", ({ target }) => { if (target.closest?.("#sg-upload")) asked = null; }, true);
document.addEventListener("sgmsnet-shown", ({ detail }) => markShown(detail));

// ---- files from anywhere ----

const hand = (file) => {
  const input = document.querySelector("#sg-upload input[type=file]");
  if (!file || !input) return;
  const list = new DataTransfer();
  list.items.add(file);
  input.files = list.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
};

document.addEventListener("paste", ({ clipboardData }) => hand(clipboardData?.files?.[0]));

const OWN = "#sg-upload, .sg-drop, #sg-batch-files"; // these take their drops themselves
const highlight = (on) => document.body.classList.toggle("sg-dragging", on);
const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");

// Prevented everywhere: a browser that opens the file instead loses the page.
document.addEventListener("dragover", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  highlight(!event.target.closest?.(OWN));
});

document.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget ?? highlight(false));

document.addEventListener("drop", (event) => {
  highlight(false);
  if (!hasFiles(event)) return;
  event.preventDefault();
  if (!event.target.closest?.(OWN)) hand(event.dataTransfer.files[0]);
});
