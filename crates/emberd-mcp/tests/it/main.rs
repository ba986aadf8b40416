//! What a client sees of answers that a daemon seldom gives, made here.

#[cfg(test)]
mod tests {
    use std::future::pending;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use emberd_client::{Client, LocalBody};
    use emberd_mcp::{Options, over_stdio};
    use hyper::{Request, Response, StatusCode};
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

    /// A daemon whose only context says `events`, one line each.
    fn daemon(events: &[Value]) -> Client {
        let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
        let lines = lines.concat();
        Client::over(move |request: Request<LocalBody>| {
            let context = json!({"id": "ctx_0", "state": "idle", "execution_count": 0,
                "next_event": 0, "created_at_ms": 0});
            let (status, body) = match request.uri().path() {
                "/sandboxes/sb_1/contexts" => (200, json!({"contexts": [context]}).to_string()),
                "/sandboxes/sb_1/contexts/ctx_0/run" => (200, lines.clone()),
                _ => (404, json!({"error": "no such", "code": "not_found"}).to_string()),
            };
            let status = StatusCode::from_u16(status).unwrap();
            async move { Response::builder().status(status).body(body).unwrap() }
        })
    }

    fn event(id: u64, name: &str, more: &Value) -> Value {
        let mut event = json!({"id": id, "event": name});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    }

    fn image(id: u64, bytes: usize) -> Value {
        let image = BASE64.encode(vec![7; bytes]);
        event(id, "display", &json!({"data": {"text/plain": "<Figure>", "image/png": image}}))
    }

    fn end(id: u64, more: &Value) -> Value {
        let mut end = json!({"execution_count": 1, "timed_out": false, "truncated": false,
            "duration_us": 7_000});
        end.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event(id, "end", &end)
    }

    /// Asks a server of `client` one thing after another.
    async fn ask<const N: usize>(client: Client, asked: [(&str, Value); N]) -> [Value; N] {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let streams = tokio::io::split(theirs);
        let served =
            Box::pin(over_stdio(client, Options::default(), None, streams, pending::<()>()));
        let conversation = async {
            let mut ours = BufReader::new(ours);
            let about = json!({"name": "test", "version": "1"});
            let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": about});
            exchange(&mut ours, "initialize", &hello).await;
            let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
            ours.write_all(format!("{ready}\n").as_bytes()).await.unwrap();
            let mut answers = Vec::new();
            for (method, params) in asked {
                answers.push(exchange(&mut ours, method, &params).await);
            }
            answers
        };
        let (served, answers) = tokio::join!(served, conversation);
        served.unwrap();
        answers.try_into().unwrap()
    }

    async fn exchange(ours: &mut BufReader<DuplexStream>, method: &str, params: &Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        ours.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        ours.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn run_code() -> (&'static str, Value) {
        let arguments = json!({"sandbox": "sb_1", "code": "draw()"});
        ("tools/call", json!({"name": "run_code", "arguments": arguments}))
    }

    #[tokio::test]
    async fn figures_are_images_and_no_text_has_base64() {
        let mut events = vec![image(1, 600 << 10)];
        events.extend((2..7).map(|id| image(id, 30)));
        events.push(event(7, "result", &json!({"data": {"text/plain": "42"}})));
        events.push(end(8, &json!({})));
        let client = daemon(&events);
        let [answer] = ask(client, [run_code()]).await;
        let result = &answer["result"];
        assert!(result.get("structuredContent").is_none(), "{result}");
        let content = result["content"].as_array().unwrap();
        let text = content[0]["text"].as_str().unwrap();
        assert_eq!(text, "ok, 7 ms\n```result\n42\n```");
        let kinds: Vec<_> =
            content[1..].iter().map(|block| block["type"].as_str().unwrap()).collect();
        // The first is too large, and the last two are too many.
        let (image, link) = ("image", "resource_link");
        assert_eq!(kinds, [link, image, image, image, link, link]);
        assert_eq!(content[2]["data"].as_str().unwrap(), BASE64.encode([7; 30]));
        assert_eq!(content[1]["size"], 600 << 10);
    }

    #[tokio::test]
    async fn a_linked_image_can_be_read() {
        let client = daemon(&[image(1, 600 << 10), end(2, &json!({}))]);
        let (ours, theirs) = tokio::io::duplex(4 << 20);
        let streams = tokio::io::split(theirs);
        let served =
            Box::pin(over_stdio(client, Options::default(), None, streams, pending::<()>()));
        let conversation = async {
            let mut ours = BufReader::new(ours);
            let hello = json!({"protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"}});
            exchange(&mut ours, "initialize", &hello).await;
            let (method, params) = run_code();
            let ran = exchange(&mut ours, method, &params).await;
            let uri = ran["result"]["content"][1]["uri"].clone();
            let read = exchange(&mut ours, "resources/read", &json!({ "uri": uri })).await;
            let blob = read["result"]["contents"][0]["blob"].as_str().unwrap().to_owned();
            assert_eq!(BASE64.decode(blob).unwrap(), vec![7; 600 << 10]);
            // An output of a sandbox that the caller may not use does not exist.
            let other = uri.as_str().unwrap().replace("sb_1", "sb_2");
            let read = exchange(&mut ours, "resources/read", &json!({ "uri": other })).await;
            assert_eq!(read["error"]["code"], -32002, "{read}");
        };
        let (served, ()) = tokio::join!(served, conversation);
        served.unwrap();
    }

    #[tokio::test]
    async fn a_denied_host_is_told_with_what_allows_it() {
        let denied =
            json!([{"host": "example.com", "port": 8443, "reason": "no_rule", "count": 1}]);
        let failed = json!({"name": "URLError", "value": "refused", "traceback": "at line 1"});
        let events = [event(1, "error", &failed), end(2, &json!({ "egress_denied": denied }))];
        let [answer] = ask(daemon(&events), [run_code()]).await;
        assert_ne!(answer["result"]["isError"], true, "a program that fails is an answer");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.starts_with("failed after 7 ms: URLError: refused\n"), "{text}");
        assert!(text.contains("example.com:8443 was denied (no_rule)"), "{text}");
        assert!(text.contains("`example.com:8443`"), "{text}");
    }
}
