//! What can be asked of the portal, by path: each is one question to the gateway, and its answer as a page.

use std::os::fd::AsFd;
use std::rc::Rc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::form::Form;
use super::http::{Connection, Response, redirected};
use super::process::Shared;
use super::route::{NoRoute, Route, host, is_same_site};
use super::wire::{Answer, Question, Standing, Why};
use super::{api, cookie, pages};

/// What is said of anything that none of the portal's forms sends.
const NO_FORM: &str = "This is not what the form sends.";

/// What is said of a passkey that does not hold.
const NOT_TAKEN: &str = "This passkey was not accepted. Try again, or use another way.";

/// What is said where nothing is asked for.
pub fn nothing(why: NoRoute) -> Response {
    let methods = match why {
        NoRoute::Path => return pages::trouble(StatusCode::NOT_FOUND, "There is no such page here."),
        NoRoute::Method(methods) => methods,
    };
    let mut refused = pages::trouble(StatusCode::METHOD_NOT_ALLOWED, "That cannot be done with this page.");
    let allowed: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if let Ok(allowed) = HeaderValue::try_from(allowed.join(", ")) {
        refused.headers_mut().insert(header::ALLOW, allowed);
    }
    refused
}

/// A request that has been read.
pub struct Request<'r> {
    /// Of the process.
    pub shared: &'r Rc<Shared>,
    /// Who asks.
    pub connection: &'r Rc<Connection>,
    /// All before the body.
    pub head: Parts,
    /// The body.
    pub body: Bytes,
}

impl Request<'_> {
    /// Asks the gateway in the name of whoever is at the other end.
    pub async fn ask(&self, question: Question) -> Answer {
        let cookie = cookie::session(&self.head.headers);
        self.shared.gateway.ask(cookie, question, self.connection.handle.as_fd()).await
    }

    /// The answer to it.
    pub async fn answer(&self) -> Response {
        let route = match Route::of(&self.head.method, self.head.uri.path()) {
            Ok(route) => route,
            Err(why) => return nothing(why),
        };
        match route {
            Route::Home => match self.ask(Question::Standing).await {
                Answer::Standing(standing) => pages::home(StatusCode::OK, &standing, None),
                answer => self.refused(answer).await,
            },
            Route::SignIn => self.sign_in().await,
            Route::Factor => self.factor().await,
            Route::StepUpForm => match self.ask(Question::Standing).await {
                Answer::Standing(standing) if standing.session.is_some() => {
                    pages::step_up(StatusCode::OK, &standing, None)
                }
                Answer::Standing(_) => redirected(StatusCode::SEE_OTHER, "/"),
                answer => self.refused(answer).await,
            },
            Route::StepUp => self.step_up().await,
            Route::Passkey => self.passkey().await,
            Route::Passkeys => self.passkeys(StatusCode::OK, None).await,
            Route::PasskeyAdd => self.passkey_add().await,
            Route::PasskeyRemove => self.passkey_remove().await,
            Route::SignOut => self.sign_out().await,
            Route::Provider { name, step_up } => self.provider(name, step_up).await,
            Route::ProviderBack => self.provider_back().await,
            Route::Captive => self.captive().await,
            Route::File { media, content } => file(media, content),
            Route::Api { ask } => api::answer(self, ask).await,
            Route::SecurityEvent { transmitter } => api::security_event(self, transmitter).await,
        }
    }

    /// The fields of the form that was sent.
    fn form(&self) -> Result<Form, Box<Response>> {
        let media = self.head.headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let media = media.and_then(|media| media.split(';').next()).unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let refused = pages::trouble(StatusCode::UNSUPPORTED_MEDIA_TYPE, NO_FORM);
            return Err(Box::new(refused));
        }
        Form::parse(&self.body).ok_or_else(|| Box::new(no_form()))
    }

    async fn sign_in(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let (Some(user), Some(password)) = (form.text("user"), form.secret("password")) else {
            return no_form();
        };
        match self.ask(Question::Password { user: user.clone(), password }).await {
            Answer::Factor { attempt, methods } => {
                pages::factor(StatusCode::OK, &self.origin(), &attempt, &methods, None)
            }
            Answer::Refused { why: why @ (Why::Wrong | Why::TooMany), retry_after_s } => {
                let (told, standing) = (pages::why(why, retry_after_s), self.standing().await);
                // Also where somebody is signed in, or this would look as if it had worked.
                let standing = Standing { session: None, ..standing };
                let page = pages::sign_in(status_of(why), &standing, Some(&told), Some(&user));
                refusing(page, retry_after_s)
            }
            answer => self.begun_or(answer).await,
        }
    }

    async fn factor(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let (Some(attempt), Some(code)) = (form.secret("attempt"), form.code("code")) else {
            return no_form();
        };
        let asked = Question::Totp { attempt: Some(attempt.clone()), code };
        match self.ask(asked).await {
            Answer::Refused { why: why @ (Why::Wrong | Why::TooMany), retry_after_s } => {
                let told = pages::why(why, retry_after_s);
                let methods = [super::wire::Method::Passkey, super::wire::Method::Totp];
                let methods = if form.secret("passkey").is_some() { &methods[..] } else { &methods[1..] };
                let page = pages::factor(status_of(why), &self.origin(), &attempt, methods, Some(&told));
                refusing(page, retry_after_s)
            }
            answer => self.begun_or(answer).await,
        }
    }

    async fn step_up(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let Some(code) = form.code("code") else {
            return no_form();
        };
        match self.ask(Question::Totp { attempt: None, code }).await {
            Answer::Refused { why: why @ (Why::Wrong | Why::TooMany), retry_after_s } => {
                let told = pages::why(why, retry_after_s);
                let standing = self.standing().await;
                refusing(pages::step_up(status_of(why), &standing, Some(&told)), retry_after_s)
            }
            answer => self.begun_or(answer).await,
        }
    }

    async fn sign_out(&self) -> Response {
        let answer = self.ask(Question::SignOut).await;
        self.signed_out_or(answer).await
    }

    /// Signed out: the cookie is forgotten, and on to the first page. Else the refusal.
    async fn signed_out_or(&self, answer: Answer) -> Response {
        let Answer::SignedOut = answer else { return self.refused(answer).await };
        let mut response = redirected(StatusCode::SEE_OTHER, "/");
        if let Some(forget) = cookie::forget(cookie::SESSION) {
            response.headers_mut().append(header::SET_COOKIE, forget);
        }
        response
    }

    async fn passkey(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let (Some(attempt), Some(response)) = (form.secret("attempt"), form.secret("response")) else {
            return no_form();
        };
        let asked = Question::PasskeyFinish { attempt, response: response.reveal().to_owned() };
        match self.ask(asked).await {
            Answer::Refused { why: why @ Why::Wrong, retry_after_s } => {
                let page = pages::home(status_of(why), &self.standing().await, Some(NOT_TAKEN));
                refusing(page, retry_after_s)
            }
            answer => self.begun_or(answer).await,
        }
    }

    async fn passkeys(&self, status: StatusCode, told: Option<&str>) -> Response {
        match self.ask(Question::Standing).await {
            Answer::Standing(standing) => match &standing.session {
                Some(session) => pages::passkeys::list(status, &standing, session, told),
                None => redirected(StatusCode::SEE_OTHER, "/"),
            },
            answer => self.refused(answer).await,
        }
    }

    async fn passkey_add(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let (Some(attempt), Some(name), Some(response)) =
            (form.secret("attempt"), form.text("name"), form.secret("response"))
        else {
            return no_form();
        };
        let response = response.reveal().to_owned();
        match self.ask(Question::PasskeyRegisterFinish { attempt, name, response }).await {
            Answer::Standing(_) => redirected(StatusCode::SEE_OTHER, "/passkeys"),
            answer => self.not_changed(answer).await,
        }
    }

    async fn passkey_remove(&self) -> Response {
        let form = match self.form() {
            Ok(form) => form,
            Err(refused) => return *refused,
        };
        let Some(id) = form.text("id") else { return no_form() };
        match self.ask(Question::PasskeyRemove { id }).await {
            answer @ Answer::SignedOut => self.signed_out_or(answer).await,
            answer => self.not_changed(answer).await,
        }
    }

    /// Why one's passkeys are as they were, beside them.
    async fn not_changed(&self, answer: Answer) -> Response {
        match answer {
            Answer::Refused { why: why @ (Why::Wrong | Why::NotFresh | Why::NotAdded), .. } => {
                let words = pages::why(why, None);
                let told = if why == Why::Wrong { NOT_TAKEN } else { &words };
                self.passkeys(status_of(why), Some(told)).await
            }
            answer => self.refused(answer).await,
        }
    }

    async fn provider(&self, name: &str, step_up: bool) -> Response {
        // A page of another site could have browsers begin sign-ins without end.
        let host = host(&self.head.uri, &self.head.headers);
        if let Err(why) = is_same_site(&self.head.headers, host.as_deref()) {
            return pages::trouble(StatusCode::FORBIDDEN, why);
        }
        match self.ask(Question::OidcBegin { provider: name.to_owned(), step_up }).await {
            Answer::Redirect { url, binding } if url.starts_with("https://") => {
                let mut response = redirected(StatusCode::SEE_OTHER, &url);
                if let Some(bind) = cookie::bind(&binding) {
                    response.headers_mut().append(header::SET_COOKIE, bind);
                }
                response
            }
            answer => self.refused(answer).await,
        }
    }

    async fn provider_back(&self) -> Response {
        let Some(form) = Form::parse(self.head.uri.query().unwrap_or_default().as_bytes()) else {
            return pages::trouble(StatusCode::BAD_REQUEST, "The identity provider's answer is broken.");
        };
        let Some(state) = form.secret("state") else {
            return pages::trouble(StatusCode::BAD_REQUEST, "The identity provider's answer is broken.");
        };
        let question = Question::OidcFinish {
            state,
            code: form.secret("code"),
            iss: form.text("iss"),
            error: form.text("error"),
            binding: cookie::value(&self.head.headers, cookie::BINDING),
        };
        let mut response = self.begun_or(self.ask(question).await).await;
        if let Some(forget) = cookie::forget(cookie::BINDING) {
            response.headers_mut().append(header::SET_COOKIE, forget);
        }
        response
    }

    async fn captive(&self) -> Response {
        let standing = self.standing().await;
        let left_s = standing.session.as_ref().map(|session| session.left_s);
        let json = serde_json::json!({
            "captive": !standing.is_taken && standing.session.is_none(),
            "user-portal-url": format!("{}/", self.origin()),
            "seconds-remaining": left_s,
            "can-extend-session": left_s.map(|_| true),
        });
        let json = serde_json::Value::Object(
            json.as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| !value.is_null())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        );
        file("application/captive+json", &json.to_string())
    }

    /// Where the portal is, as browsers write it.
    fn origin(&self) -> String {
        super::origin(&self.shared.name, self.shared.port)
    }

    /// What is known of whoever asks; nothing when the gateway does not say.
    async fn standing(&self) -> Standing {
        match self.ask(Question::Standing).await {
            Answer::Standing(standing) => *standing,
            _ => Standing::default(),
        }
    }

    /// Signed in: the new cookie, and on to the status. Else the refusal.
    async fn begun_or(&self, answer: Answer) -> Response {
        let Answer::Begun { cookie, .. } = &answer else { return self.refused(answer).await };
        let Some(set) = cookie::set(cookie) else {
            return pages::trouble(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The gateway gave out no usable session.",
            );
        };
        let mut response = redirected(StatusCode::SEE_OTHER, "/");
        response.headers_mut().append(header::SET_COOKIE, set);
        response
    }

    /// A refusal: on the page where it can be tried again, if there is one.
    async fn refused(&self, answer: Answer) -> Response {
        let Answer::Refused { why, retry_after_s } = answer else {
            return pages::trouble(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The gateway said something else than was asked.",
            );
        };
        let told = pages::why(why, retry_after_s);
        let response = match why {
            Why::Wrong | Why::TooMany | Why::Stale | Why::NotSignedIn | Why::Provider => {
                pages::home(status_of(why), &self.standing().await, Some(&told))
            }
            _ => pages::trouble(status_of(why), &told),
        };
        refusing(response, retry_after_s)
    }
}

/// What was sent is not what one of the portal's forms sends.
fn no_form() -> Response {
    pages::trouble(StatusCode::BAD_REQUEST, NO_FORM)
}

fn refusing(mut response: Response, retry_after_s: Option<u32>) -> Response {
    if let Some(retry_after_s) = retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after_s.into());
    }
    response
}

/// The status of a refusal.
pub fn status_of(why: Why) -> StatusCode {
    match why {
        Why::NotSignedIn => StatusCode::UNAUTHORIZED,
        Why::NotAdded => StatusCode::CONFLICT,
        Why::Wrong | Why::Stale | Why::NotFresh | Why::Locked | Why::NoSegment | Why::Shared => {
            StatusCode::FORBIDDEN
        }
        Why::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Why::Unknown => StatusCode::NOT_FOUND,
        Why::Provider => StatusCode::BAD_GATEWAY,
        Why::Full | Why::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Why::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A file, or anything else that is no page.
pub fn file(media: &'static str, content: &str) -> Response {
    let mut response = Response::new(Full::from(Bytes::copy_from_slice(content.as_bytes())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    if matches!(media, "text/css" | "text/javascript" | "image/svg+xml") {
        let kept = HeaderValue::from_static("public, max-age=300");
        response.headers_mut().insert(header::CACHE_CONTROL, kept);
    }
    response
}
