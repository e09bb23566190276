// ---- Media ----------------------------------------------------------------------------------------------------------

/** Returns an image that is sent as it is where formats and size allow, else shrunk; `detail` says what was done. */
async function readImage(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is no image this browser can read. Use PNG, JPEG, WebP or GIF.`);
  }
  const { width, height } = picture;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  if (SENT_AS_THEY_ARE.includes(file.type) && scale === 1 && file.size <= LARGEST_IMAGE) {
    return { kind: "image", blob: file, name: file.name, detail: `${width} × ${height}` };
  }
  const canvas = make("canvas");
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";  // JPEG has no transparency
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  const change = scale < 1 ? `shrunk from ${width} × ${height} to ${canvas.width} × ${canvas.height}` : `${width} × ${height}, as JPEG`;
  return { kind: "image", blob, name: file.name, detail: change };
}

/** Returns a sound as WAV: a WAV file as it is, anything else decoded by the browser and mixed to one channel. */
async function readSound(file, name = file.name) {
  const bytes = await file.arrayBuffer();
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, SOUND_RATE).decodeAudioData(bytes.slice(0));
  } catch {
    throw new Error(`${name} is no sound this browser can read. Use WAV, MP3, OGG, FLAC or M4A.`);
  }
  const wav = new TextDecoder().decode(bytes.slice(0, 4)) === "RIFF";
  const blob = wav ? new Blob([bytes], { type: "audio/wav" }) : wavOf(sound);
  return { kind: "audio", blob, name, detail: `${sound.duration.toFixed(1)} s` };
}

/** Returns decoded sound as a WAV file: one channel (the mean of all), 16 bit. */
function wavOf(sound) {
  const samples = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const word = (offset, text) => [...text].forEach((letter, index) => samples.setUint8(offset + index, letter.charCodeAt(0)));
  word(0, "RIFF"); samples.setUint32(4, 36 + 2 * sound.length, true); word(8, "WAVEfmt ");
  samples.setUint32(16, 16, true); samples.setUint16(20, 1, true); samples.setUint16(22, 1, true);
  samples.setUint32(24, sound.sampleRate, true); samples.setUint32(28, 2 * sound.sampleRate, true);
  samples.setUint16(32, 2, true); samples.setUint16(34, 16, true);
  word(36, "data"); samples.setUint32(40, 2 * sound.length, true);
  const channels = Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index));
  for (let index = 0; index < sound.length; index += 1) {
    let mean = 0;
    for (const channel of channels) mean += channel[index] / channels.length;
    samples.setInt16(44 + 2 * index, Math.round(32767 * Math.max(-1, Math.min(1, mean))), true);
  }
  return new Blob([samples], { type: "audio/wav" });
}

async function attach(files) {
  notice("");
  const faults = [];
  for (const file of files) {
    busy += 1;
    showComposer();
    try {
      const kind = file.type.split("/")[0];
      if (kind !== "image" && kind !== "audio") throw new Error(`${file.name} is neither an image nor a sound; it was left out.`);
      if (!reads(kind)) throw new Error(`${file.name} was left out: this model reads no ${kind}.`);
      attached.push(await (kind === "image" ? readImage(file) : readSound(file)));
      announce(`Attached ${file.name}`);
    } catch (error) {
      faults.push(error.message);
    }
    busy -= 1;
    showComposer();
  }
  if (faults.length) notice(faults.join(" "));
  at("question").focus();
}

let recording = null;

async function record() {
  if (recording) return recording.stop();
  notice("");
  if (!navigator.mediaDevices) {
    return notice("A browser records only on https or on localhost. Open the page there, or drop a sound file instead.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    return notice(`The microphone cannot be used (${error.message}). Allow it for this page and press again, or drop a sound file.`);
  }
  const pieces = [];
  const begun = Date.now();
  recording = new MediaRecorder(stream);
  recording.ondataavailable = (event) => pieces.push(event.data);
  const clock = setInterval(() => {
    const seconds = Math.floor((Date.now() - begun) / 1000);
    at("record").querySelector(".clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    if (seconds >= LONGEST_RECORDING && recording?.state === "recording") {
      recording.stop();
      notice(`The recording ended by itself after ${LONGEST_RECORDING} seconds.`);
    }
  }, 200);
  recording.onstop = async () => {
    clearInterval(clock);
    stream.getTracks().forEach((track) => track.stop());
    recording = null;
    showRecording();
    busy += 1;
    showComposer();
    try {
      attached.push(await readSound(new Blob(pieces), `recording ${new Date(begun).toLocaleTimeString()}`));
      announce("Recording attached");
    } catch {
      notice("Nothing was recorded. Hold on a little longer before you stop, or drop a sound file.");
    }
    busy -= 1;
    showComposer();
    at("question").focus();
  };
  recording.start();
  showRecording();
  announce("Recording");
}

function showRecording() {
  const button = at("record");
  const label = recording ? "Stop recording" : "Record a sound";
  button.setAttribute("aria-pressed", String(Boolean(recording)));
  button.title = button.querySelector(".unseen").textContent = label;
  button.querySelector(".clock").hidden = !recording;
  button.querySelector(".clock").textContent = "0:00";
  button.querySelector("use").setAttribute("href", recording ? "#i-stop" : "#i-record");
  showComposer();
}
