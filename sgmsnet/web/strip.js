// The strip of examples: a click or the Enter key asks the server for that one; and files may be pasted anywhere.

element.addEventListener("click", ({ target }) => {
  const chosen = target.closest(".sg-example");
  if (!chosen) return;
  for (const other of element.querySelectorAll(".sg-example")) other.setAttribute("aria-current", other === chosen);
  trigger("click", { name: chosen.dataset.name });
});

const forget = () => {
  for (const other of element.querySelectorAll(".sg-example")) other.setAttribute("aria-current", false);
};

document.addEventListener("change", ({ target }) => target.closest?.("#sg-upload") && forget(), true);

document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files?.[0];
  const input = document.querySelector("#sg-upload input[type=file]");
  if (!file || !input) return;
  const list = new DataTransfer();
  list.items.add(file);
  input.files = list.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
