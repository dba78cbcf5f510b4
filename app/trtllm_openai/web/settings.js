// The settings panel: one form over a conversation's options.

import { h } from "./dom.js";
import { t } from "./i18n.js";
import { EFFORTS, EXAMPLE_SCHEMA, EXAMPLE_TOOLS, NUMBERS, TOOL_CHOICES, parsedSchema, parsedTools } from "./options.js";

/** What is wrong with the options, as sentences by name; empty if they can be sent. */
export function problems(options, form) {
  const found = {};
  const tools = parsedTools(options);
  if (tools.problem) found.tools = t("settings.json", { message: tools.problem });
  else if (tools.wrongKind) found.tools = t("settings.json.list");
  const schema = parsedSchema(options);
  if (schema.problem) found.schema = t("settings.json", { message: schema.problem });
  else if (schema.wrongKind) found.schema = t("settings.json.object");
  for (const field of form?.querySelectorAll("input[type=number]:invalid") ?? [])
    if (!field.disabled) found[field.name] = field.validationMessage;
  return found;
}

/**
 * Fill the panel. `card`: the model's entry of /v1/models, whose capabilities say what can be set.
 * `onChange` is called after each change of `options`.
 */
export function showSettings(place, options, card, onChange) {
  const engine = card?.trtllm_openai;
  const capabilities = engine?.capabilities;
  const lacks = (capability) => Boolean(capability && capabilities && !capabilities[capability]);

  const set = (name, value) => {
    if (value === "" || value === false) delete options[name];
    else options[name] = value;
    check();
    onChange();
  };
  const check = () => {
    const found = problems(options, place);
    for (const name of ["tools", "schema"]) {
      const note = place.querySelector(`#problem-${name}`);
      note.textContent = found[name] ?? "";
      place.querySelector(`#option-${name}`).setAttribute("aria-invalid", String(name in found));
    }
  };

  const field = (name, label, control) =>
    h("div", { class: "field" }, h("label", { for: `option-${name}` }, label), control);
  const area = (name, rows, placeholder = "", props = {}) =>
    h("textarea", {
      id: `option-${name}`,
      name,
      rows,
      placeholder,
      value: options[name] ?? "",
      spellcheck: false,
      oninput: (event) => set(name, event.target.value),
      ...props,
    });
  const choice = (name, values, empty) =>
    h(
      "select",
      { id: `option-${name}`, name, onchange: (event) => set(name, event.target.value) },
      [...(empty === undefined ? [] : [["", empty]]), ...values.map((value) => [value, value])].map(([value, text]) =>
        h("option", { value, selected: (options[name] ?? (empty === undefined ? values[0] : "")) === value }, text),
      ),
    );
  const json = (name, rows, example) => [
    area(name, rows, "", { class: "mono", "aria-describedby": `problem-${name}` }),
    h("p", { class: "problem", id: `problem-${name}`, role: "alert" }),
    h(
      "button",
      {
        type: "button",
        class: "text-button",
        onclick: () => {
          const place = document.getElementById(`option-${name}`);
          place.value = example;
          set(name, example);
          place.focus();
        },
      },
      t("settings.example"),
    ),
  ];

  const numbers = NUMBERS.map(({ name, capability, integer, ...range }) => {
    const without = lacks(capability);
    const usual = engine?.default_sampling?.[name];
    const label = usual === undefined ? t("settings.default") : t("settings.default.value", { value: usual });
    return field(
      name,
      t(`settings.${name}`),
      h("input", {
        id: `option-${name}`,
        name,
        type: "number",
        ...range,
        step: integer ? 1 : "any",
        value: options[name] ?? "",
        placeholder: without ? "–" : label,
        disabled: without,
        "aria-describedby": without ? "note-unsupported" : null,
        inputMode: integer ? "numeric" : "decimal",
        oninput: (event) => set(name, event.target.value),
      }),
    );
  });
  const noLogprobs = Boolean(capabilities && capabilities.max_logprobs < 0);
  const noGuides = Boolean(capabilities && !capabilities.guides?.includes("json_schema"));

  place.replaceChildren(
    h(
      "form",
      { onsubmit: (event) => event.preventDefault() },
      h("h2", {}, t("settings")),
      field("system", t("settings.system"), area("system", 4, t("settings.system.placeholder"), { spellcheck: true })),
      h("h3", {}, t("settings.sampling")),
      h(
        "div",
        { class: "fields" },
        numbers,
        field(
          "reasoning_effort",
          t("settings.reasoning_effort"),
          choice("reasoning_effort", EFFORTS, t("settings.default")),
        ),
      ),
      NUMBERS.some(({ capability }) => lacks(capability)) &&
        h("p", { class: "note", id: "note-unsupported" }, t("settings.unsupported.some")),
      field("stop", t("settings.stop"), area("stop", 2)),
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          id: "option-logprobs",
          checked: Boolean(options.logprobs),
          disabled: noLogprobs,
          onchange: (event) => set("logprobs", event.target.checked),
        }),
        h("span", {}, t("settings.logprobs")),
      ),
      h("p", { class: "note" }, t(noLogprobs ? "settings.unsupported" : "settings.logprobs.note")),
      h(
        "details",
        { open: Boolean(options.tools) },
        h("summary", {}, t("settings.tools")),
        field("tools", t("settings.tools.label"), json("tools", 8, EXAMPLE_TOOLS)),
        field("tool_choice", t("settings.tools.choice"), choice("tool_choice", TOOL_CHOICES)),
      ),
      h(
        "details",
        { open: Boolean(options.schema) },
        h("summary", {}, t("settings.schema")),
        noGuides && h("p", { class: "note" }, t("settings.unsupported")),
        field("schema", t("settings.schema.label"), json("schema", 8, EXAMPLE_SCHEMA)),
      ),
      h(
        "button",
        {
          type: "button",
          class: "button",
          onclick: () => {
            for (const name of Object.keys(options)) delete options[name];
            onChange();
            showSettings(place, options, card, onChange);
            place.querySelector("textarea").focus();
          },
        },
        t("settings.reset"),
      ),
    ),
  );
  check();
}
