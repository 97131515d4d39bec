// The page at /: the appliance's state, and a chat that uses the API as any client does.
"use strict";

const REFRESH_MS = 2000;
const PATIENCE_MS = 5000;
const LARGEST_SIDE = 1024;
const SAMPLE_RATE = 16000;
const LONGEST_CLIP_S = 30;
const NEAR_THE_END = 40;

const byId = (id) => document.getElementById(id);
const element = (name, text = "", properties = {}) =>
  Object.assign(document.createElement(name), { textContent: text }, properties);

// ---- The state

const GB = 1e9;

function stateRows({ health, readings }) {
  const named = (name) => readings.filter((reading) => reading.name === name);
  const [total] = named("memory_total");
  const [free] = named("memory_available");
  const listed = (name, unit) =>
    named(name).map((r) => `${r.sensor} ${r.value.toFixed(1)} ${unit}`).join(", ");
  return [
    ["State", health.error ? `${health.status}: ${health.error}` : health.status],
    ["Model", health.model],
    ["Device", health.device],
    ["Running", `${health.queue.running} of ${health.queue.slots} slots`],
    ["Waiting", String(health.queue.waiting)],
    ["Speed", health.tokens_per_s === null ? null : `${health.tokens_per_s} tokens per second`],
    ["Memory", total && free && `${(free.value / GB).toFixed(1)} of ${(total.value / GB).toFixed(1)} GB free`],
    ["Temperature", listed("temperature", "°C")],
    ["Power", listed("power", "W")],
    ["Up for", duration(health.uptime_s)],
    ["Version", health.version],
  ].filter(([, value]) => value);
}

function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.floor(seconds)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 1 ? `${minutes} min` : `${hours} h ${minutes % 60} min`;
}

function showState(status) {
  const rows = stateRows(status);
  byId("state").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  say("summary", `${status.health.model} is ${status.health.status}`);
  const errors = status.errors.map((error) => {
    const when = new Date(error.at * 1000).toLocaleString();
    return element("li", `${when}, ${error.path}: ${error.message} (${error.request_id})`);
  });
  byId("errors").replaceChildren(...(errors.length ? errors : [element("li", "None.")]));
}

// A screen reader says a status again whenever it is written, even if it is the same.
function say(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

async function refresh() {
  if (document.hidden) return;
  try {
    const reply = await fetch("status", { signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!reply.ok) throw new Error(`the answer is ${reply.status}`);
    showState(await reply.json());
  } catch (error) {
    say("summary", `The server does not answer: ${error.message}`);
  }
}

async function refreshForEver() {
  await refresh();
  setTimeout(refreshForEver, REFRESH_MS);
}

// ---- What goes with a message

let attachments = [];

function addAttachment(part, preview, name) {
  const attachment = { part, preview, name };
  const remove = element("button", "Remove", { type: "button", ariaLabel: `Remove ${name}` });
  const item = element("li");
  item.append(preview, remove);
  remove.addEventListener("click", () => {
    attachments = attachments.filter((other) => other !== attachment);
    item.remove();
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    byId("text").focus();
  });
  attachments.push(attachment);
  byId("attachments").append(item);
}

// Smaller than it may be sent: the model sees less than that, and a phone's photograph is large.
async function addPicture(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = element("canvas", "", {
      width: Math.max(1, Math.round(bitmap.width * scale)),
      height: Math.max(1, Math.round(bitmap.height * scale)),
    });
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const url = canvas.toDataURL("image/jpeg", 0.9);
    const name = file.name || "picture";
    addAttachment({ type: "image_url", image_url: { url } }, element("img", "", { src: url, alt: name }), name);
    say("notice", "");
  } catch {
    say("notice", `${file.name || "This"} is no picture that this browser can read.`);
  }
}

// One after the other, so that they stay in order; a message waits for those that are still being read.
let reading = Promise.resolve();

function addPictures(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/"));
  for (const file of pictures) reading = reading.then(() => addPicture(file));
  return pictures.length > 0;
}

// ---- Sound: whatever the browser records, as the wav that the API takes

let recorder = null;

async function toggleRecording() {
  if (recorder) {
    recorder.stop();
    return;
  }
  if (!navigator.mediaDevices) {
    say("notice", "Browsers lend the microphone to pages by https or from this machine itself only.");
    return;
  }
  // While the browser asks whether the page may, another click asks for nothing.
  byId("record").disabled = true;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    startRecording(stream);
  } catch (error) {
    say("notice", `The microphone cannot be used: ${error.message}`);
  }
  byId("record").disabled = false;
}

function startRecording(stream) {
  const pieces = [];
  const mine = new MediaRecorder(stream);
  const limit = setTimeout(() => mine.stop(), LONGEST_CLIP_S * 1000);
  mine.addEventListener("dataavailable", (event) => pieces.push(event.data));
  mine.addEventListener("stop", async () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    showRecording(false);
    try {
      await addClip(new Blob(pieces));
    } catch {
      say("notice", "Nothing was recorded.");
    }
  });
  mine.start();
  recorder = mine;
  showRecording(true);
}

function showRecording(isRecording) {
  byId("record").setAttribute("aria-pressed", String(isRecording));
  byId("record").textContent = isRecording ? "Stop recording" : "Record";
}

async function addClip(blob) {
  const context = new OfflineAudioContext(1, 1, SAMPLE_RATE);
  const decoded = await context.decodeAudioData(await blob.arrayBuffer());
  const length = Math.min(decoded.length, LONGEST_CLIP_S * SAMPLE_RATE);
  const mixer = new OfflineAudioContext(1, length, SAMPLE_RATE);
  const source = new AudioBufferSourceNode(mixer, { buffer: decoded });
  source.connect(mixer.destination);
  source.start();
  const wav = toWav((await mixer.startRendering()).getChannelData(0));
  const part = { type: "input_audio", input_audio: { data: toBase64(wav), format: "wav" } };
  const url = URL.createObjectURL(new Blob([wav], { type: "audio/wav" }));
  addAttachment(part, element("audio", "", { src: url, controls: true }), "recording");
}

// 16 bits, one channel: http://soundfile.sapp.org/doc/WaveFormat/
function toWav(samples) {
  const bytes = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (offset, text) => [...text].forEach((c, i) => bytes.setUint8(offset + i, c.charCodeAt(0)));
  write(0, "RIFF");
  bytes.setUint32(4, bytes.byteLength - 8, true);
  write(8, "WAVEfmt ");
  bytes.setUint32(16, 16, true);
  bytes.setUint16(20, 1, true);
  bytes.setUint16(22, 1, true);
  bytes.setUint32(24, SAMPLE_RATE, true);
  bytes.setUint32(28, 2 * SAMPLE_RATE, true);
  bytes.setUint16(32, 2, true);
  bytes.setUint16(34, 16, true);
  write(36, "data");
  bytes.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, i) => {
    bytes.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, sample)) * 0x7fff, true);
  });
  return bytes.buffer;
}

function toBase64(buffer) {
  const bytes = new Uint8Array(buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

// ---- The chat

let history = [];
let asking = null;

function showMessage(role, text, previews = []) {
  const message = element("article", "", { className: "message" });
  const paragraph = element("p", text);
  message.append(element("h3", role), ...previews, paragraph);
  byId("messages").append(message);
  showEnd();
  return paragraph;
}

function showEnd() {
  byId("messages").scrollTop = byId("messages").scrollHeight;
}

// Whoever has scrolled up to read something is left there.
function write(paragraph, text) {
  const { scrollTop, clientHeight, scrollHeight } = byId("messages");
  paragraph.textContent = text;
  if (scrollHeight - scrollTop - clientHeight < NEAR_THE_END) showEnd();
}

async function send() {
  await reading;
  const text = byId("text").value.trim();
  if (asking || (!text && !attachments.length)) return;
  byId("text").focus();
  const sent = attachments;
  const parts = sent.map(({ part }) => part);
  const content = parts.length ? [...parts, ...(text ? [{ type: "text", text }] : [])] : text;
  const question = showMessage("You", text, sent.map(({ preview }) => preview));
  attachments = [];
  byId("attachments").replaceChildren();
  byId("text").value = "";
  say("notice", "");
  if (await answer([...history, { role: "user", content }])) return;
  // Nothing was said to it: it can be sent again.
  question.parentElement.remove();
  byId("text").value = [text, byId("text").value].filter(Boolean).join("\n");
  sent.forEach(({ part, preview, name }) => addAttachment(part, preview, name));
}

// Returns whether anything was said, which stays part of the conversation even if it was cut off.
async function answer(messages) {
  const paragraph = showMessage("Gemma", "");
  const mine = new AbortController();
  asking = mine;
  showAsking(true);
  let said = "";
  try {
    for await (const chunk of chunks(messages, mine.signal)) {
      if (chunk.error) throw new Error(chunk.error.message);
      said += chunk.choices[0]?.delta.content ?? "";
      write(paragraph, said);
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      paragraph.classList.add("wrong");
      say("notice", error.message);
    }
  }
  if (asking !== mine) return true; // another chat has begun
  asking = null;
  showAsking(false);
  if (said) history = [...messages, { role: "assistant", content: said }];
  else paragraph.parentElement.remove();
  return Boolean(said);
}

async function* chunks(messages, signal) {
  const reply = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model: "gemma3n", stream: true, messages }),
    signal,
  });
  if (!reply.ok) throw new Error(await complaint(reply));
  let rest = "";
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: {")) yield JSON.parse(event.slice("data: ".length));
    }
  }
}

// A proxy before the server may answer in words of its own.
async function complaint(reply) {
  const body = await reply.json().catch(() => null);
  return body?.error?.message ?? `The answer is ${reply.status} ${reply.statusText}.`;
}

function showAsking(isAsking) {
  if (!isAsking && document.activeElement === byId("stop")) byId("text").focus();
  byId("send").disabled = isAsking;
  byId("stop").hidden = !isAsking;
  byId("messages").setAttribute("aria-busy", String(isAsking));
}

function stop() {
  asking?.abort();
  byId("text").focus();
}

function clear() {
  asking?.abort();
  asking = null;
  showAsking(false);
  history = [];
  byId("messages").replaceChildren();
  say("notice", "");
  byId("text").focus();
}

// ---- What people do

function listen() {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
  byId("stop").addEventListener("click", stop);
  byId("clear").addEventListener("click", clear);
  byId("record").addEventListener("click", toggleRecording);
  byId("picture").addEventListener("change", (event) => {
    addPictures(event.target.files);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (addPictures(event.clipboardData.files)) event.preventDefault();
  });
  const frame = document.documentElement;
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    frame.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => frame.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    frame.classList.remove("dropping");
    if (!addPictures(event.dataTransfer.files)) say("notice", "Only pictures can be dropped here.");
  });
  document.addEventListener("visibilitychange", refresh);
}

listen();
refreshForEver();
