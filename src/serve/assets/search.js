// A picture of somebody's own becomes its vector, by which the page is asked for.
"use strict";
const form = document.querySelector("form.search");
const upload = document.getElementById("upload");
const trouble = document.getElementById("trouble");

function complain(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

// Little-endian floats, in the letters that an address may have.
function encoded(numbers) {
  const bytes = new DataView(new ArrayBuffer(4 * numbers.length));
  numbers.forEach((number, at) => bytes.setFloat32(4 * at, number, true));
  const text = String.fromCharCode(...new Uint8Array(bytes.buffer));
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

upload.addEventListener("change", async () => {
  const [file] = upload.files;
  if (!file) return;
  complain("");
  try {
    const kind = "application/octet-stream";
    const answer = await fetch("/v1/embed", {
      method: "POST", headers: { "content-type": kind }, body: file,
    });
    const said = await answer.json();
    if (!answer.ok) {
      complain(said.error?.message ?? "The picture was not taken (" + answer.status + ").");
      return;
    }
    form.querySelector("[name=vector]")?.remove();
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "vector", value: encoded(said.embedding) });
    form.append(field);
    // It is this that pictures are to be like.
    for (const other of ["words", "image"]) document.getElementById(other).value = "";
    form.requestSubmit();
  } catch {
    complain("The server does not answer, or the picture cannot be read.");
  }
});
