// Runs llama.cpp, by node-llama-cpp: its prebuilt libraries choose the kernels of this processor, as a build from
// source would. Speaks the protocol of ../protocol.py. Arguments: the model's file, the number of threads.
import { createInterface } from "node:readline";
import { writeSync } from "node:fs";
import { getLlama, LlamaLogLevel, TokenBias } from "node-llama-cpp";

const [modelPath, threads] = [process.argv[2], Number(process.argv[3])];
const MAX_SEQUENCES = 32, CONTEXT = 1024, BATCH = 512;

const now = () => Number(process.hrtime.bigint()) / 1e9; // CLOCK_MONOTONIC, as Python's time.monotonic
const tell = (message) => writeSync(1, JSON.stringify(message) + "\n");

const llama = await getLlama({
  gpu: false, build: "never", maxThreads: threads, logLevel: LlamaLogLevel.error, progressLogs: false,
});
const model = await llama.loadModel({ modelPath });
const ban = TokenBias.for(model).set(model.tokens.eos, { logit: -100 });

async function generate(sequence, prompt, maxTokens) {
  const result = { submitted: now(), times: [], tokens: 0, text: "" };
  const output = [];
  for await (const token of sequence.evaluate(prompt.ids, { temperature: 0, yieldEogToken: true, tokenBias: ban })) {
    result.times.push(now());
    output.push(token);
    if (++result.tokens === maxTokens) break;
  }
  result.text = model.detokenize(output, true);
  await sequence.clearHistory();
  return result;
}

tell({ ready: { version: `node-llama-cpp 3.22.1, llama.cpp ${llama.llamaCppRelease.release}` } });
for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  // A context for each load: its cells are shared out between as many sequences as run together.
  const context = await model.createContext({
    sequences: Math.min(job.concurrency, MAX_SEQUENCES), contextSize: CONTEXT, batchSize: BATCH, threads,
  });
  const results = new Array(job.prompts.length);
  let next = 0;
  const caller = async () => {
    const sequence = context.getSequence();
    while (next < job.prompts.length) {
      const index = next++;
      results[index] = await generate(sequence, job.prompts[index], job.max_tokens);
    }
  };
  await Promise.all(Array.from({ length: Math.min(job.concurrency, MAX_SEQUENCES) }, caller));
  await context.dispose();
  tell({ requests: results });
}
process.exit(0);
