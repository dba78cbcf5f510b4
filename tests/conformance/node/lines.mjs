// What the scripts share: a feature is a JSON line on standard output, {feature, ok, detail}.
export async function feature(name, run) {
  let detail = "";
  try {
    await run();
  } catch (error) {
    detail = String(error?.stack ?? error).slice(0, 600);
  }
  console.log(JSON.stringify({ feature: name, ok: detail === "", detail }));
}

export function assert(condition) {
  if (!condition) throw new Error("the assertion does not hold");
}

export function same(found, expected) {
  if (found !== expected) throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(expected)}`);
}
