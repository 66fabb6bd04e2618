//! A headless Chromium that does what WebDriver (https://www.w3.org/TR/webdriver2/) tells it. It ends with its handle.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::eventually_within;
use crate::kit::client::Client;
use crate::kit::tools::{self, Chromium};

/// The name of an element's member in answers (WebDriver, section 12.3).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How long a browser may take to start where everything is busy.
const START: Duration = Duration::from_secs(120);

pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    client: Client,
    session: String,
}

/// An element of the page that is shown.
pub(crate) struct Element(String);

impl Element {
    /// As an argument of a script.
    pub(crate) fn to_json(&self) -> Value {
        json!({ ELEMENT: self.0 })
    }
}

impl Browser {
    /// Starts one that keeps what it writes in the folder. `fonts` says in which ones it draws, where that matters.
    pub(crate) async fn start(folder: &Path, address: SocketAddr, fonts: Option<&Path>) -> Result<Self, String> {
        let chromium = tools::chromium()?;
        let driver = spawn(chromium, folder, address, fonts)?;
        let mut browser = Self { driver, address, client: Client::default(), session: String::new() };
        browser.session = browser.open(chromium).await?;
        Ok(browser)
    }

    async fn open(&self, chromium: &Chromium) -> Result<String, String> {
        // Its sandbox needs rights that containers have not, and it sees nothing but pages of this repository.
        let args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"];
        let options = json!({ "binary": chromium.browser, "args": args });
        let capabilities = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let body = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let opened = eventually_within(START, "chromedriver listens", async || {
            match self.ask("POST", "/session", &body).await {
                // It does not listen yet.
                Err(error) if error.contains("onnect") => None,
                opened => Some(opened),
            }
        });
        Ok(opened.await?["sessionId"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn goto(&self, url: &str) -> Result<(), String> {
        self.tell("url", json!({ "url": url })).await.map(drop)
    }

    /// What the function body `script` returns.
    pub(crate) async fn run(&self, script: &str, args: &[Value]) -> Result<Value, String> {
        self.tell("execute/sync", json!({ "script": script, "args": args })).await
    }

    /// The first that the selector means.
    pub(crate) async fn find(&self, css: &str) -> Result<Element, String> {
        self.find_by("css selector", css).await
    }

    pub(crate) async fn find_by(&self, using: &str, value: &str) -> Result<Element, String> {
        let told = self.tell("element", json!({ "using": using, "value": value })).await?;
        Ok(Element(told[ELEMENT].as_str().unwrap_or_default().to_owned()))
    }

    pub(crate) async fn click(&self, Element(id): &Element) -> Result<(), String> {
        self.tell(&format!("element/{id}/click"), json!({})).await.map(drop)
    }

    /// Types into the element, which gets the focus by that.
    pub(crate) async fn type_into(&self, Element(id): &Element, text: &str) -> Result<(), String> {
        self.tell(&format!("element/{id}/value"), json!({ "text": text })).await.map(drop)
    }

    /// Keys for whatever has the focus, each pressed and let go.
    pub(crate) async fn press(&self, keys: &[&str]) -> Result<(), String> {
        let actions =
            keys.iter().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })));
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions.collect::<Vec<_>>() });
        self.tell("actions", json!({ "actions": [keyboard] })).await.map(drop)
    }

    /// As on a screen of this size, in CSS pixels.
    pub(crate) async fn resize(&self, width: u32, height: u32, scale: f64) -> Result<(), String> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await
    }

    /// As where the system says how it wants to see things, as in `prefers-color-scheme`.
    pub(crate) async fn prefer(&self, feature: &str, value: &str) -> Result<(), String> {
        let media = json!({ "features": [{ "name": feature, "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", media).await
    }

    async fn devtools(&self, command: &str, params: Value) -> Result<(), String> {
        self.tell("goog/cdp/execute", json!({ "cmd": command, "params": params })).await.map(drop)
    }

    /// PNG.
    pub(crate) async fn screenshot(&self) -> Result<Vec<u8>, String> {
        let told = self.ask("GET", &format!("/session/{}/screenshot", self.session), &Value::Null).await?;
        STANDARD.decode(told.as_str().unwrap_or_default()).map_err(|error| error.to_string())
    }

    /// What its console said since it was asked last, as `LEVEL message`.
    pub(crate) async fn console(&self) -> Result<Vec<String>, String> {
        let told = self.tell("se/log", json!({ "type": "browser" })).await?;
        let line = |entry: &Value| Some(format!("{} {}", entry["level"].as_str()?, entry["message"].as_str()?));
        Ok(told.as_array().into_iter().flatten().filter_map(line).collect())
    }

    async fn tell(&self, command: &str, body: Value) -> Result<Value, String> {
        self.ask("POST", &format!("/session/{}/{command}", self.session), &body).await
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("http://{}{path}", self.address);
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.client.send_body(method, &url, &[("content-type", "application/json")], &text).await?;
        let told: Value = serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}"))?;
        let value = told["value"].clone();
        match answer.status.is_success() {
            true => Ok(value),
            false => Err(format!("{}: {}", value["error"], value["message"].as_str().unwrap_or_default())),
        }
    }
}

impl Drop for Browser {
    /// The driver ends its browser where it is asked to. Killed, it leaves it running.
    fn drop(&mut self) {
        if let Ok(mut connection) = TcpStream::connect(self.address) {
            let _ = connection.set_read_timeout(Some(Duration::from_secs(10)));
            let lines =
                format!("DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", self.session);
            let _ = connection.write_all(lines.as_bytes());
            let _ = connection.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn spawn(chromium: &Chromium, folder: &Path, address: SocketAddr, fonts: Option<&Path>) -> Result<Child, String> {
    let log = folder.join("chromedriver.log");
    let output = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(&chromium.driver);
    if let Some(fetched) = &chromium.fetched {
        let libraries = std::env::join_paths(tools::libraries_below(fetched)).map_err(|error| error.to_string())?;
        command.env("LD_LIBRARY_PATH", libraries);
    }
    if chromium.fetched.is_some() || fonts.is_some() {
        command.env("FONTCONFIG_FILE", font_config(chromium, folder, fonts)?);
    }
    command
        .arg(format!("--port={}", address.port()))
        // Where it keeps its profile and caches, which end with the folder.
        .envs([("TMPDIR", folder), ("HOME", folder)])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("chromedriver: {error}"))
}

/// Without fonts Chromium draws no letter, and a machine without a screen may have none.
fn font_config(chromium: &Chromium, folder: &Path, fonts: Option<&Path>) -> Result<std::path::PathBuf, String> {
    let fetched = chromium.fetched.as_ref().map(|folder| folder.join("usr/share/fonts"));
    let own = fonts.map(|folder| folder.join("usr/share/fonts"));
    let folders = own.into_iter().chain(fetched).chain([Path::new("/usr/share/fonts").to_owned()]);
    let folders: String = folders.map(|folder| format!("<dir>{}</dir>", folder.display())).collect();
    let prefer = |family: &str, font: &str| {
        format!("<alias binding=\"same\"><family>{family}</family><prefer><family>{font}</family></prefer></alias>")
    };
    let families = [("sans-serif", "Inter"), ("system-ui", "Inter"), ("monospace", "JetBrains Mono")];
    let aliases: String = families.map(|(family, font)| prefer(family, font)).concat();
    let aliases = if fonts.is_some() { aliases } else { String::new() };
    let text = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM \"fonts.dtd\">\n<fontconfig>{folders}{aliases}\
         <cachedir>{}</cachedir></fontconfig>\n",
        folder.join("fonts").display()
    );
    let file = folder.join("fonts.conf");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}
