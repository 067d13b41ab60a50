// Asks a Tandem router one question and prints the answer as it is made.
//
//   node ask.mjs [--target HOST:PORT] --token-file FILE [--as NAME] [--policy NAME] [--timeout SECONDS] "question"
//
// FILE holds the token alone; with --as it is a credentials.json as `tandem up` writes it, and NAME is one of its names.
// The answer goes to standard output, everything about it to standard error. Exits 0 after an answer, 1 after a failed
// call, 2 for a wrong command line.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const LOADING = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true, json: true };
const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

const router = grpc.loadPackageDefinition(
  protoLoader.loadSync("tandem/v1/router_service.proto", { ...LOADING, includeDirs: [path("../../../proto")] }),
).tandem.v1;
const rpc = protoLoader.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"], {
  ...LOADING,
  includeDirs: [path("protos")],
});

/** Returns text that cannot steer a terminal: documents and models are not trusted to print escape sequences. */
const plain = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
const note = (line) => process.stderr.write(`${plain(line)}\n`);

/** Returns the details of google.rpc.Status that a failed call carries, or none. */
function details(error) {
  const [raw] = error.metadata?.get("grpc-status-details-bin") ?? [];
  return raw ? rpc["google.rpc.Status"].deserialize(raw).details : [];
}

/** Prints why a call failed: the reason for a program, the message for a person, and what to do about it. */
function explain(error) {
  let reason = "";
  const hints = [];
  for (const detail of details(error)) {
    const type = String(detail["@type"]).split("/").pop();
    if (type === "google.rpc.ErrorInfo") reason = ` (${detail.reason})`;
    if (type === "google.rpc.BadRequest") {
      for (const fault of detail.field_violations) hints.push(`  ${fault.field}: ${fault.description}`);
    }
    if (type === "google.rpc.RetryInfo") {
      const delay = detail.retry_delay;
      hints.push(`  try again in ${(delay.seconds + delay.nanos / 1e9).toFixed(1)} s`);
    }
  }
  note(`${grpc.status[error.code] ?? error.code}${reason}: ${error.details}`);
  hints.forEach((hint) => note(hint));
}

const word = (value, prefix) => value.replace(prefix, "").toLowerCase().replaceAll("_", " ");

/** Prints what stands behind a finished answer. */
function provenance(answer) {
  answer.citations.forEach((citation, index) => {
    const page = citation._page ? `, page ${citation.page}` : "";
    note(`[${index + 1}] ${citation.title} (${citation.document_id}${page}): "${citation.quote}"`);
  });
  const weights = answer.lineage ? [answer.lineage.model, answer.lineage.adapter].filter(Boolean).join(" + ") : "";
  const confidence = answer.confidence ? `, confidence ${answer.confidence.value.toFixed(2)}` : "";
  note(`route ${word(answer.decision?.route ?? "none", "ROUTE_")}${weights && ` by ${weights}`}${confidence}`);
  for (const gap of answer.degraded) note(`degraded: ${gap.component}: ${gap.effect}`);
  note(`answer ${answer.answer_id}`);
}

/** Prints one event of the stream. */
function show(event) {
  switch (event.event) {
    case "started":
      note(`policy ${event.started.policy}`);
      break;
    case "decision": {
      const { kind, route, reason } = event.decision;
      const gone = kind === "KIND_ESCALATE" || kind === "KIND_FALL_BACK" ? " (the draft above is discarded)" : "";
      if (drafted) process.stdout.write("\n");
      note(`${word(kind, "KIND_")} ${word(route, "ROUTE_")}: ${reason}${gone}`);
      break;
    }
    case "sources":
      note(`reading ${event.sources.passages.length} passages`);
      break;
    case "delta":
      process.stdout.write(plain(event.delta.text));
      break;
    case "finished": {
      // finished.answer replaces every delta, so it is printed again when it is not what the reader has seen.
      const text = plain(event.finished.answer.text);
      process.stdout.write(text.trim() === drafted.trim() ? "\n" : `\n${text}\n`);
      provenance(event.finished.answer);
      break;
    }
  }
}

const USAGE =
  "usage: node ask.mjs [--target HOST:PORT] --token-file FILE [--as NAME] " +
  '[--policy NAME] [--timeout SECONDS] "question"';

/** Returns the token in a file: its only content, or what stands under a name in a JSON object. */
function readToken(file, name) {
  const content = readFileSync(file, "utf8").trim();
  let token = content;
  if (name !== undefined) {
    try {
      token = JSON.parse(content)[name];
    } catch {
      token = undefined; // The parser's own message would quote the secret.
    }
  }
  if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) throw new Error(`${file} holds no such token`);
  return token;
}

/** Returns the command line as { question, target, token, policy, timeout }; throws when it is wrong. */
function commandLine() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      target: { type: "string", default: "localhost:7700" },
      "token-file": { type: "string" },
      as: { type: "string" },
      policy: { type: "string", default: "" },
      timeout: { type: "string", default: "60" },
    },
  });
  if (positionals.length !== 1 || !values["token-file"]) throw new Error("one question and --token-file are needed");
  const timeout = Number(values.timeout);
  if (!(timeout > 0)) throw new Error("--timeout takes seconds");
  const token = readToken(values["token-file"], values.as);
  return { question: positionals[0], target: values.target, token, policy: values.policy, timeout };
}

let wanted;
try {
  wanted = commandLine();
} catch (error) {
  note(`${error.message}\n${USAGE}`);
  process.exit(2);
}

const client = new router.RouterService(wanted.target, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${wanted.token}`);

// What has been printed of the present draft, to tell whether the final answer differs.
let drafted = "";
const request = { question: wanted.question, policy: wanted.policy };
const call = client.StreamAsk({ request }, metadata, { deadline: Date.now() + wanted.timeout * 1000 });
call.on("data", (event) => {
  show(event);
  if (event.event === "decision" && /ESCALATE|FALL_BACK/.test(event.decision.kind)) drafted = "";
  if (event.event === "delta") drafted += plain(event.delta.text);
});
call.on("error", (error) => {
  explain(error);
  process.exitCode = 1;
  client.close();
});
call.on("end", () => client.close());
process.on("SIGINT", () => call.cancel());
