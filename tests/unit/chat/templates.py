"""Chat templates of the kinds that model families have, written for tests."""

CHATML = """\
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}"""
"""Any role in its place, content as it is."""

HEADERS = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
  {%- set system, rest = messages[0].content | trim, messages[1:] -%}
{%- else -%}
  {%- set system, rest = 'Cutting knowledge date: 2023', messages -%}
{%- endif -%}
{{- '[start]system[end]\\n\\n' + system + '[eot]' -}}
{%- for m in rest -%}
  {%- if m.tool_calls -%}
    {%- if m.tool_calls | length != 1 %}{{ raise_exception('only one call at a time') }}{% endif -%}
    {{- '[start]assistant[end]\\n\\n' + (m.tool_calls[0].function | tojson) + '[eot]' -}}
  {%- elif m.role in ['tool', 'ipython'] -%}
    {{- '[start]ipython[end]\\n\\n' + (m.content | tojson) + '[eot]' -}}
  {%- else -%}
    {{- '[start]' + m.role + '[end]\\n\\n' + (m.content | trim) + '[eot]' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '[start]assistant[end]\\n\\n' }}{% endif -%}"""
"""Trims; JSON of what a tool returned; a system message of its own."""

THINKING = """\
{%- for m in messages -%}
  {%- if m.role == 'system' and not loop.first %}{{ raise_exception('the system comes first') }}{% endif -%}
  {%- if m.role in ['system', 'user'] -%}
    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}
  {%- elif m.role == 'assistant' -%}
    {%- set thoughts, text = m.reasoning_content or '', m.content -%}
    {%- if '</think>' in text -%}
      {%- set thoughts = text.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
      {%- set text = text.split('</think>')[-1].lstrip('\\n') -%}
    {%- endif -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if loop.last or thoughts -%}
      {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' -}}
    {%- endif -%}
    {{- text.lstrip('\\n') + '<|im_end|>\\n' -}}
  {%- elif m.role == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' + m.content + '\\n</tool_response><|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif -%}"""
"""Takes thinking out of a content; refuses a late system message; leaves out roles that it does not know."""

OPENED = """\
{%- set found = namespace(system='') -%}
{%- for m in messages if m.role == 'system' %}{% set found.system = found.system + m.content %}{% endfor -%}
{{- bos_token + found.system -}}
{%- for m in messages -%}
  {%- if m.role == 'user' %}{{ '<User>' + m.content }}{% endif -%}
  {%- if m.role == 'assistant' %}{{ '<Assistant>' + m.content.split('</think>')[-1] + '<end>' }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<Assistant><think>\\n' }}{% endif -%}"""
"""Drops earlier thinking, and begins every answer with a begin tag."""

INSTRUCTIONS = """\
{%- if messages[0].role == 'system' -%}
  {%- set system, turns = messages[0].content + '\\n\\n', messages[1:] -%}
{%- else -%}
  {%- set system, turns = '', messages -%}
{%- endif -%}
{{- bos_token -}}
{%- for m in turns -%}
  {%- if m.role != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('roles must alternate user and assistant') -}}
  {%- endif -%}
  {%- if m.role == 'user' -%}
    {{- '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' -}}
  {%- else -%}
    {{- ' ' + m.content.strip() + eos_token -}}
  {%- endif -%}
{%- endfor -%}"""
"""Turns must alternate; the system message goes into the first of them."""

DOCUMENTS = """\
{%- for d in documents or [] %}{{ '<document>' + d.title + ': ' + d.text + '</document>\\n' }}{% endfor -%}
{%- for m in messages -%}
  {{- '<role>' + m.role + '</role>' + m.content + '<end>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<role>assistant</role>' }}{% endif -%}"""
"""Documents beside the messages, and any role."""

FAMILIES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "thinking": THINKING,
    "opened": OPENED,
    "instructions": INSTRUCTIONS,
    "documents": DOCUMENTS,
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
