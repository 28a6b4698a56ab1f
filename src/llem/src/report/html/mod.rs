//! One page that needs nothing but itself: no network, no other file. Its text is made here and readable without scripts; its plots are drawn
//! by a script of its own from data that stands in the page. A content security policy forbids every request.

mod data;
mod escape;
mod sections;
mod table;

use crate::analysis::StudyAnalysis;
use crate::report::words;
use data::Data;
use escape::{escape, json};

const STYLE: &str = include_str!("style.css");
/// One script in a scope of its own.
const SCRIPT: &str = concat!(
    "\"use strict\";\n{\n",
    include_str!("drawing.js"),
    include_str!("plots.js"),
    include_str!("controls.js"),
    "}\n"
);

/// Nothing may be fetched, from anywhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// What a page is made of.
#[derive(Clone, Copy, Debug)]
pub struct HtmlMaterial<'a> {
    /// The study, with its pictures.
    pub study: &'a StudyAnalysis,
    /// `study.yaml` as it was run.
    pub source: Option<&'a str>,
    /// `study.lock.json`: what it was run with.
    pub lock: Option<&'a str>,
}

/// The page.
pub fn html(material: &HtmlMaterial<'_>) -> String {
    let study = material.study;
    let name = escape(&words::name(&study.name));
    let sections: Vec<Section> = sections::all(material);
    let links: Vec<String> =
        sections.iter().map(|section| format!("<li><a href=\"#{}\">{}</a></li>", section.id, section.short)).collect();
    let bodies: Vec<String> = sections.iter().map(Section::html).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name} · llem report</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <a class=\"skip\" href=\"#experiments\">To the table</a>\n<header>\n<h1>{name}</h1>\n{}</header>\n\
         <nav aria-label=\"Sections\"><ul>{}</ul></nav>\n<main>\n{}</main>\n\
         <footer>Made by llem {} from {}. Nothing in this page is loaded from anywhere.</footer>\n\
         <script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        sections::verdict(study),
        links.concat(),
        bodies.concat(),
        env!("CARGO_PKG_VERSION"),
        escape(&words::name(&study.study_id)),
        json(&Data::of(study)),
    )
}

/// A part of the page. Texts are fixed; the body is escaped where it is made.
struct Section {
    id: &'static str,
    title: &'static str,
    short: &'static str,
    body: String,
}

impl Section {
    fn html(&self) -> String {
        let Self { id, title, body, .. } = self;
        format!(
            "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n{body}</section>\n"
        )
    }
}
