// The strip of examples: a click or the Enter key asks the server for that one; and files may be pasted and dropped anywhere.

const strip = element.querySelector(".sg-strip"); // where the event finds the example that is asked for
const tiles = [...element.querySelectorAll(".sg-example")];
let asked = null; // the example that was chosen last, unless a file was

const markShown = (name) => {
  for (const tile of tiles) tile.setAttribute("aria-current", name !== null && name === asked && tile.dataset.name === name);
};

element.addEventListener("click", ({ target }) => {
  const chosen = target.closest(".sg-example");
  if (!chosen) return;
  asked = strip.dataset.asked = chosen.dataset.name;
  trigger("click");
});

document.addEventListener("change", ({ target }) => {
  if (!target.closest?.("#sg-upload")) return;
  asked = null;
  if (strip && "asked" in strip.dataset) strip.dataset.asked = ""; // its turn has not come yet, and is not to come now
  tell("");
}, true);

document.addEventListener("sgmsnet-shown", ({ detail }) => {
  markShown(detail);
  tell("");
  runLater();
});

// An engine was chosen while a file was on its way: it runs on that file as soon as the zone is free again.
const runLater = () => {
  if (!("sgLater" in document.body.dataset)) return;
  if (!inputOf(document.querySelector("#sg-upload"))) return void setTimeout(runLater, 100);
  delete document.body.dataset.sgLater;
  trigger("click");
};

// ---- files from anywhere ----

const tell = (sentence) => {
  const place = document.querySelector("#sg-wait");
  place.hidden = !sentence;
  place.textContent = sentence; // after it is there: what is hidden is not read out
};

const inputOf = (zone) => zone?.querySelector("input[type=file]");

// While a file is on its way it holds the zone, which has no input meanwhile.
const hand = (file) => {
  if (!file) return;
  const input = inputOf(document.querySelector("#sg-upload"));
  if (!input) return tell("Please wait until this X-ray is done.");
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
  const own = event.target.closest?.(OWN);
  if (!own || (own.id === "sg-upload" && !inputOf(own))) hand(event.dataTransfer.files[0]);
});
