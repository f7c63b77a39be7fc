//! As much of a browser as a sign-in needs: cookies, redirects, forms.

use std::collections::HashMap;
use std::path::Path;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How many pages a sign-in may take.
const PAGES_MAX: usize = 30;

/// A browser, and who sits at it.
pub struct Browser {
    agent: ureq::Agent,
    cookies: HashMap<String, String>,
    login: Option<(String, String)>,
    user_code: String,
}

enum Page {
    Redirect(String),
    Shown(String),
}

impl Browser {
    pub fn new(root: &Path, login: &str, password: &str) -> Browser {
        let root = Certificate::from_pem(&std::fs::read(root).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::from([root]))
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(bulkhead_tests::PATIENCE))
            .build();
        Browser {
            agent: config.new_agent(),
            cookies: HashMap::new(),
            login: Some((login.to_owned(), password.to_owned())),
            user_code: String::new(),
        }
    }

    /// From now on a form to sign in is a surprise.
    pub fn type_nothing(&mut self) {
        self.login = None;
    }

    /// The same browser, with somebody who types this.
    pub fn with(mut self, login: &str, password: &str) -> Browser {
        self.login = Some((login.to_owned(), password.to_owned()));
        self
    }

    /// Goes where it is sent, fills in what is asked, and returns with what it is sent back with.
    pub fn visit(&mut self, url: &str, back: &str) -> HashMap<String, String> {
        let last = self.walk(url, Some(back));
        let (_, query) = last.split_once('?').unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// As [`Browser::visit`], but returns the whole query.
    pub fn travel(&mut self, url: &str, back: &str) -> String {
        let last = self.walk(url, Some(back));
        last.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default()
    }

    /// Types the code of a terminal and allows what it wants.
    pub fn allow(&mut self, url: &str, user_code: &str) {
        user_code.clone_into(&mut self.user_code);
        self.walk(url, None);
    }

    /// Until it is sent to an address that begins with `back`, or there is no form any more.
    fn walk(&mut self, url: &str, back: Option<&str>) -> String {
        let mut url = url.to_owned();
        let mut page = self.get(&url);
        for _ in 0..PAGES_MAX {
            page = match page {
                Page::Redirect(to) => {
                    let to = join(&url, &to);
                    if back.is_some_and(|back| to.starts_with(back)) {
                        return to;
                    }
                    url = to;
                    self.get(&url)
                }
                Page::Shown(html) => {
                    let Some(form) = Form::first(&html) else {
                        assert!(back.is_none(), "a page without a form: {html}");
                        return html;
                    };
                    url = join(&url, &form.action);
                    let body = self.fill(&form);
                    self.post(&url, &body)
                }
            };
        }
        panic!("the provider goes on and on, now at {url}")
    }

    fn fill(&self, form: &Form) -> String {
        let mut typed = form_urlencoded::Serializer::new(String::new());
        for (name, value) in &form.inputs {
            let value = match name.as_str() {
                "login" => &self.login.as_ref().expect("nobody should be asked").0,
                "password" => &self.login.as_ref().expect("nobody should be asked").1,
                "user_code" if value.is_empty() => &self.user_code,
                _ => value,
            };
            typed.append_pair(name, value);
        }
        typed.finish()
    }

    fn get(&mut self, url: &str) -> Page {
        let response = self.agent.get(url).header("Cookie", self.cookie()).call().unwrap();
        self.take(response)
    }

    fn post(&mut self, url: &str, body: &str) -> Page {
        let request = self.agent.post(url).header("Cookie", self.cookie());
        let form = "application/x-www-form-urlencoded";
        let response = request.header("Content-Type", form).send(body).unwrap();
        self.take(response)
    }

    fn cookie(&self) -> String {
        self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    fn take(&mut self, mut response: ureq::http::Response<ureq::Body>) -> Page {
        for cookie in response.headers().get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        if let Some(to) = response.headers().get("location") {
            return Page::Redirect(to.to_str().unwrap().to_owned());
        }
        let status = response.status();
        let html = response.body_mut().read_to_string().unwrap();
        assert_eq!(status, 200, "{html}");
        Page::Shown(html)
    }
}

fn join(base: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    if to.is_empty() {
        return base.to_owned();
    }
    let host = base.match_indices('/').nth(2).map_or(base.len(), |(at, _)| at);
    format!("{}{to}", &base[..host])
}

struct Form {
    action: String,
    inputs: Vec<(String, String)>,
}

impl Form {
    /// The first form of a page. The provider's pages are plain enough for this.
    fn first(html: &str) -> Option<Form> {
        let start = html.find("<form")?;
        let end = html[start..].find("</form>")? + start;
        let form = &html[start..end];
        let action = attribute(&form[..form.find('>')?], "action").unwrap_or_default();
        let inputs = form.split("<input").skip(1).filter_map(|input| {
            let tag = &input[..input.find('>')?];
            Some((attribute(tag, "name")?, attribute(tag, "value").unwrap_or_default()))
        });
        Some(Form { action, inputs: inputs.collect() })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!("{name}=\""))? + name.len() + 2;
    let end = tag[start..].find('"')? + start;
    Some(tag[start..end].replace("&amp;", "&").replace("&#x2F;", "/"))
}
