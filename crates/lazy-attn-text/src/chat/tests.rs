use proptest::prelude::*;

use super::*;

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}\
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA3: &str = "{%- if strftime_now is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- else %}
    {%- set date_string = '26 Jul 2024' %}
{%- endif %}
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today Date: ' + date_string + '\\n\\n' + system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}";

const MISTRAL: &str = "{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set rest = messages -%}{%- endif -%}
{{- bos_token -}}
{%- set ns = namespace(index=0) -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (ns.index % 2 == 0) -%}
        {{- raise_exception('roles must alternate user/assistant') -}}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
    {%- if message['role'] == 'user' -%}
        {%- if loop.last and system is defined -%}
            {{- '[INST] ' + system + '\\n\\n' + message['content'].strip() + ' [/INST]' -}}
        {%- else -%}{{- '[INST] ' + message['content'].strip() + ' [/INST]' -}}{%- endif -%}
    {%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}
{%- endfor -%}";

const SYSTEM: ChatMessage<'static> = ChatMessage { role: "system", content: "Be brief." };
const USER: ChatMessage<'static> = ChatMessage { role: "user", content: " Hi? " };
const ANSWER: ChatMessage<'static> = ChatMessage { role: "assistant", content: "Yes." };

fn render(source: &str, input: &ChatInput<'_>) -> Result<String, TextError> {
    let tokens = TemplateTokens { bos: "<s>".into(), eos: "</s>".into() };
    ChatTemplate::new(source, tokens)?.render(input)
}

fn conversation<'a>(messages: &'a [ChatMessage<'a>]) -> ChatInput<'a> {
    ChatInput { messages, now_unix_seconds: 1_721_952_000, ..ChatInput::default() }
}

fn problem(source: &str) -> String {
    render(source, &conversation(&[USER])).unwrap_err().to_string()
}

#[test]
fn chatml_adds_its_system_message_only_when_there_is_none() {
    let with = render(CHATML, &conversation(&[SYSTEM, USER])).unwrap();
    assert_eq!(
        with,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi? <|im_end|>\n<|im_start|>assistant\n"
    );
    let input = ChatInput { generation_prompt: GenerationPrompt::None, ..conversation(&[USER]) };
    let without = render(CHATML, &input).unwrap();
    assert_eq!(
        without,
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\n Hi? <|im_end|>\n"
    );
}

#[test]
fn llama3_writes_the_injected_date() {
    assert_eq!(
        render(LLAMA3, &conversation(&[SYSTEM, USER])).unwrap(),
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
}

#[test]
fn mistral_refuses_a_broken_order_in_its_own_words() {
    let order = [SYSTEM, USER, ANSWER, USER];
    assert_eq!(
        render(MISTRAL, &conversation(&order)).unwrap(),
        "<s>[INST] Hi? [/INST] Yes.</s>[INST] Be brief.\n\nHi? [/INST]"
    );
    let error = render(MISTRAL, &conversation(&[USER, USER])).unwrap_err();
    assert!(error.to_string().ends_with("roles must alternate user/assistant"), "{error}");
}

#[test]
fn blocks_take_their_line_with_them() {
    let source = "a\n  {% if true %}\nb\n  {% endif %}\nc";
    assert_eq!(render(source, &conversation(&[])).unwrap(), "a\nb\nc");
}

#[test]
fn loop_controls_and_generation_marks_work() {
    let source = "{% for message in messages %}{% if loop.index > 1 %}{% break %}{% endif %}\
        {% generation %}{{ message.content }}{% endgeneration %}{% endfor %}";
    assert_eq!(render(source, &conversation(&[ANSWER, USER])).unwrap(), "Yes.");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let source = "{{ {'a': [1, 'é<&>'], 'b': none} | tojson }}|{{ [1] | tojson(indent=2) }}";
    assert_eq!(render(source, &conversation(&[])).unwrap(), "{\"a\": [1, \"é<&>\"], \"b\": null}|[\n  1\n]");
}

#[test]
fn documents_are_none_when_there_are_none_and_keep_their_fields() {
    let source = "{% if documents %}{% for d in documents %}{{ d['title'] }}:{{ d.text }};{% endfor %}{% else %}-{% endif %}";
    assert_eq!(render(source, &conversation(&[])).unwrap(), "-");
    let documents = [Document { title: Some("T"), text: "x" }, Document { title: None, text: "y" }];
    let input = ChatInput { documents: &documents, ..conversation(&[]) };
    assert_eq!(render(source, &input).unwrap(), "T:x;:y;");
}

#[test]
fn templates_that_never_end_run_out_of_fuel() {
    let nested =
        "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = a %}{% endfor %}{% endfor %}";
    assert!(problem(nested).contains("fuel"), "{}", problem(nested));
}

#[test]
fn recursion_is_an_error() {
    let source = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(problem(source).contains("recursion"), "{}", problem(source));
    let nested = "{{ ".to_owned() + &"(".repeat(10_000) + "1" + &")".repeat(10_000) + " }}";
    assert!(problem(&nested).contains("recursion"), "{}", problem(&nested));
}

#[test]
fn prompts_longer_than_the_bound_are_refused() {
    let source = "{% for a in range(100) %}{{ 'x' * 1000000 }}{% endfor %}";
    assert!(problem(source).contains("length of the rendered prompt"), "{}", problem(source));
}

#[test]
fn template_length_and_item_count_hold_at_the_bound_and_one_past_it() {
    let template = |num_bytes: usize| ChatTemplate::new(&"x".repeat(num_bytes), TemplateTokens::default());
    assert!(template(ChatTemplate::MAX_TEMPLATE_BYTES).is_ok());
    assert!(matches!(template(ChatTemplate::MAX_TEMPLATE_BYTES + 1), Err(TextError::TooLarge { .. })));
    let messages = vec![USER; ChatTemplate::MAX_ITEMS + 1];
    assert!(render("", &conversation(&messages[1..])).is_ok());
    assert!(matches!(render("", &conversation(&messages)), Err(TextError::TooLarge { .. })));
}

#[test]
fn syntax_errors_name_their_line() {
    assert!(problem("a\nb\n{% if %}").starts_with("chat template line 3"), "{}", problem("a\nb\n{% if %}"));
}

fn template_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{% for m in messages %}"),
        Just("{% endfor %}"),
        Just("{% if m %}"),
        Just("{% endif %}"),
        Just("{{ m.content.split(' ')[-1] }}"),
        Just("{{ messages[::-1] }}"),
        Just("{% set x = x ~ 'a' %}"),
        Just("{{ m | tojson(indent=3) }}"),
        Just("{%"),
        Just("}}"),
        Just("{#"),
        Just("-%}"),
        Just("'"),
        Just("é"),
        Just("{{ strftime_now('%Y%') }}"),
        Just("{{ 1 // 0 }}"),
        Just("{{ messages[99].x.y }}"),
        Just("{% generation %}"),
        Just("{{ raise_exception(1) }}"),
        Just("{% break %}"),
        Just("\n  "),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_template_panics(source in prop_oneof![any::<String>(), template_like()]) {
        let _ = render(&source, &conversation(&[SYSTEM, USER, ANSWER]));
    }

    #[test]
    fn contents_pass_through_chatml_unchanged(content in any::<String>()) {
        let message = ChatMessage { role: "system", content: &content };
        let rendered = render(CHATML, &conversation(&[message])).unwrap();
        prop_assert_eq!(
            rendered,
            format!("<|im_start|>system\n{content}<|im_end|>\n<|im_start|>assistant\n")
        );
    }
}

#[test]
fn one_instruction_cannot_take_all_memory_and_a_chain_of_operators_not_the_stack() {
    for (source, expected) in [
        ("{{ '%9999999999d' | format(1) }}", "width"),
        ("{{ '%*d' | format(9999999999, 1) }}", "width"),
        ("{{ '{:9999999999}'.format(1) }}", "width"),
        ("{{ 'x' | indent(9999999999) }}", "width"),
        ("{{ 'x' | indent(width=9999999999) }}", "width"),
        ("{{ 'x' * 9999999999 }}", "too large"),
    ] {
        let template = ChatTemplate::new(source, TemplateTokens::default()).unwrap();
        let error = template.render(&ChatInput::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
    for operator in ["-", "not ", "1~", "1|", "1 if 1 else ", "1 and "] {
        let room = ChatTemplate::MAX_TEMPLATE_BYTES - "{{ 1 }}".len();
        let source = format!("{{{{ {}1 }}}}", operator.repeat(room / operator.len()));
        // Right or wrong: it comes back.
        let _ = ChatTemplate::new(&source, TemplateTokens::default());
    }
    let source = "{{ '%5.1f|' | format(2.25) }}{{ '{:>4}'.format('a') }}{{ 'a\nb' | indent(2) }}";
    let template = ChatTemplate::new(source, TemplateTokens::default()).unwrap();
    assert_eq!(template.render(&ChatInput::default()).unwrap(), "  2.2|   aa\n  b");
}
